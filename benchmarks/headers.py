"""Headers of many files into one table: ours, what people would use instead, and opening and reading alone, in turns

python benchmarks/headers.py                     16,384 files made from the real header values, their pixels left out
python benchmarks/headers.py --files FOLDER      your own files
python benchmarks/headers.py --memory            peak memory of `scan_to` and `prepare` at 1, 4 and 16 times the files"""
import json, os, tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from contest import SHARED, arguments, conditions, contest, report

KEYWORDS = '''SOPInstanceUID PatientID StudyInstanceUID SeriesInstanceUID Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
    RescaleSlope RescaleIntercept WindowCenter WindowWidth ImagePositionPatient ImageOrientationPatient PixelSpacing Modality PhotometricInterpretation'''.split()

def _tags():
    from pydicom.datadict import tag_for_keyword
    return [divmod(tag_for_keyword(k), 1<<16) for k in KEYWORDS]

def _seen(rows, z):
    "How many files, and the sum of their positions along the patient in mm"
    return len(rows), round(float(sum(z)))

def ours(root, paths, workers=1):
    "headers.scan, one process"
    from rsna_ich.dicom.scanning import scan
    return partial(scan, root, workers=workers), lambda df: _seen(df, df.z)

def ours_on_all(root, paths):
    "headers.scan, a process a core"
    return ours(root, paths, os.cpu_count())

def pydicom(root, paths):
    "dcmread(stop_before_pixels=True), the same values into a DataFrame"
    import pandas as pd
    from pydicom import dcmread
    def one(path):
        ds = dcmread(path, stop_before_pixels=True)
        return dict(path=path, transfer_syntax=ds.file_meta.TransferSyntaxUID) | {k:ds.get(k) for k in KEYWORDS}
    return lambda: pd.DataFrame([one(p) for p in paths]), lambda df: _seen(df, [p[2] for p in df.ImagePositionPatient])

def fastai(root, paths):
    "DataFrame.from_dicoms(px_summ=False)"
    import pandas as pd
    import_module('fastai.medical.imaging')
    paths = [Path(p) for p in paths]
    return lambda: pd.DataFrame.from_dicoms(paths, px_summ=False), lambda df: _seen(df, df.ImagePositionPatient2)

def _texts(df): return _seen(df, [float(p.split('\\')[2]) for p in df.ImagePositionPatient])

def simpleitk(root, paths):
    "ImageFileReader.ReadImageInformation, the same values into a DataFrame, as text"
    import pandas as pd, SimpleITK as sitk
    reader,tags = sitk.ImageFileReader(),[(k, f'{g:04x}|{e:04x}') for k,(g,e) in zip(KEYWORDS, _tags())]
    reader.SetImageIO('GDCMImageIO')
    def one(path):
        reader.SetFileName(path)
        reader.ReadImageInformation()
        return dict(path=path) | {k:reader.GetMetaData(t) for k,t in tags if reader.HasMetaDataKey(t)}
    return lambda: pd.DataFrame([one(p) for p in paths]), _texts

def _gdcm(path):
    import gdcm
    reader = gdcm.Reader()
    reader.SetFileName(path)
    if not reader.ReadUpToTag(gdcm.Tag(0x7fe0, 0x10)): raise ValueError('GDCM could not read a file')
    return reader # which owns the file

def gdcm(root, paths):
    "Reader.ReadUpToTag and StringFilter, the same values into a DataFrame, as text"
    import gdcm, pandas as pd
    tags,text = [(k, gdcm.Tag(*t)) for k,t in zip(KEYWORDS, _tags())],gdcm.StringFilter()
    def one(path):
        reader = _gdcm(path)
        text.SetFile(reader.GetFile())
        return dict(path=path) | {k:text.ToString(t) for k,t in tags}
    return lambda: pd.DataFrame([one(p) for p in paths]), _texts

def gdcm_parse(root, paths):
    "Reader.ReadUpToTag alone, no values"
    import_module('gdcm')
    def run():
        for p in paths: _gdcm(p)
    return run, lambda _: None

def limit(root, paths):
    "open, read 2 KiB, close"
    def run():
        for p in paths:
            fd = os.open(p, os.O_RDONLY)
            os.read(fd, 2048)
            os.close(fd)
    return run, lambda _: None

def make(folder, n, size=512):
    "Files with the header values of the real test set, without pixels"
    from rsna_ich.phantom.headers_like import write_headers_like
    write_headers_like(folder, SHARED/'stage_1_test_headers.csv.gz', size=size, sparse=True, limit=n)
    return str(Path(folder)/'dicom')

def scan_memory(root, out, workers=1):
    "scan_to"
    from rsna_ich.dicom.scanning import scan_to
    return lambda: scan_to(f'{out}/all.parquet', root, workers=workers), int

def scan_memory_all(root, out):
    "scan_to, a process a core; the one that collects"
    return scan_memory(root, out, os.cpu_count())

def prepare_memory(root, out):
    "prepare at 64 pixels, of a fifth of the files"
    from rsna_ich.dicom.header_files import load_headers
    from rsna_ich.data.store import prepare
    return lambda: prepare(load_headers(f'{out}/some.parquet'), f'{out}/store', size=64, read_size=64), len

def memory(n):
    "Peaks of each job, a process of its own for each figure"
    from rsna_ich.dicom.header_files import save_headers
    from rsna_ich.dicom.scanning import scan
    jobs = {'scan_to':scan_memory, 'scan_to-all-cores':scan_memory_all, 'prepare':prepare_memory}
    res = {k:{} for k in jobs}
    for files in (n, 4*n, 16*n):
        with tempfile.TemporaryDirectory() as d:
            root = make(d, files, 64)
            save_headers(scan(root, workers=1).head(files//5), f'{d}/some.parquet')
            for r in contest(jobs, root, d, rounds=1, fresh=True): res[r.name][r.seen] = round(r.peak)
    for k,v in res.items(): print(f"{k:20} {'   '.join(f'{m:,} files {mib:,} MiB' for m,mib in v.items())}")
    grown = {k:round(max(v.values())/min(v.values()), 2) for k,v in res.items()}
    print(json.dumps(dict(bench='headers-memory', ours=grown['scan_to'], unit='times the peak of a sixteenth of the files', n=16*n, grown=grown, peak_mib=res, conditions=conditions())))

def main():
    ap = arguments(__doc__, rounds=3)
    ap.add_argument('--files', help='a folder of DICOM files')
    ap.add_argument('--make', type=int, default=16384, help='how many files to make without --files')
    ap.add_argument('--memory', action='store_true')
    a = ap.parse_args()
    if a.memory: return memory(a.make//4)
    makers = {'ours':ours, 'ours all cores':ours_on_all, 'pydicom':pydicom, 'fastai':fastai, 'simpleitk':simpleitk, 'gdcm':gdcm, 'gdcm-parse':gdcm_parse, 'limit':limit}
    with tempfile.TemporaryDirectory() as d:
        root = str(Path(a.files).resolve()) if a.files else make(d, a.make)
        paths = sorted(str(p) for p in Path(root).rglob('*') if p.is_file())
        rows = contest(makers, root, paths, rounds=a.rounds, seconds=a.seconds, same=lambda a,b: a[0] == b[0] and abs(a[1]-b[1]) <= 1)
    report('headers', rows, len(paths), 'files/s', ('pydicom', 'fastai', 'SimpleITK', 'python-gdcm'))

if __name__ == '__main__': main()
