"""Read every file that comes with pydicom, and those in the folders named, and hold the stored pixels against pydicom's own.

    pip download --no-deps pydicom-data && unzip pydicom_data*.whl -d data
    python -m tests.fuzz.conformance data

A file without a rescale (an MR, say) can't give HU and is refused for it; to test its pixels as well it is read once more with slope 1 and intercept 0 put in."""
import io, json, logging, sys, warnings
from collections import Counter
from pathlib import Path
import numpy as np, pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from rsna_ich.core.errors import DicomError
from rsna_ich.dicom.archive import unpacked_file
from rsna_ich.dicom.fields import n_frames
from rsna_ich.dicom.stored import stored_pixels
from rsna_ich.dicom.door import read_dicom

def peers(data):
    "The file as pydicom reads it, also where it has no meta information"
    inside = unpacked_file(io.BytesIO(data))
    ds = pydicom.dcmread(inside or io.BytesIO(data), force=True)
    if 'TransferSyntaxUID' not in ds.file_meta:
        implicit,little = ds.original_encoding
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return ds

def with_rescale(data):
    "The same file with slope 1 and intercept 0, written by pydicom"
    ds,buf = peers(data),io.BytesIO()
    ds.RescaleSlope,ds.RescaleIntercept = 1, 0
    ds.save_as(buf)
    return buf.getvalue()

def verdict(data):
    "'as pydicom' or 'otherwise' for a file that is read, else why it is refused"
    try: ds = read_dicom(data, modality=None)
    except DicomError as e:
        why = str(e).removeprefix('<bytes>: ')
        return verdict(with_rescale(data)) if why.startswith('no rescale') else why
    want = peers(data).pixel_array
    return 'as pydicom' if np.array_equal(np.stack([stored_pixels(ds, i) for i in range(n_frames(ds))]), want.reshape(-1, *want.shape[-2:])) else 'otherwise'

def files(folders):
    "All files of the folders, and of pydicom's own"
    for root in [Path(pydicom.__file__).parent/'data', *map(Path, folders)]:
        yield from (p for p in sorted(root.rglob('*')) if p.is_file() and p.suffix not in ('.py', '.pyc', '.json', '.txt', '.md') and 'dist-info' not in str(p))

def main():
    logging.disable()
    warnings.simplefilter('ignore')
    pydicom.config.settings.reading_validation_mode = pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    said = [(p.name, verdict(p.read_bytes())) for p in files(sys.argv[1:])]
    for name,v in said: print(f'{name:48s} {v}')
    print(json.dumps(dict(files=len(said), read_as_pydicom=sum(v == 'as pydicom' for _,v in said), read_otherwise=sum(v == 'otherwise' for _,v in said),
        refused=dict(Counter(v.split(':')[0].split('(')[0].strip() for _,v in said if v not in ('as pydicom', 'otherwise'))))))

if __name__ == '__main__': main()
