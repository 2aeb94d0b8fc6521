"""Pixels of many slices into batches [64,1,512,512]: ours, what people would use instead, and reading the same bytes alone, in turns

python benchmarks/pixels.py [--files FOLDER] [--n 256]; the real slices are read without --files"""
import os
from importlib import import_module
from contest import arguments, contest, report, slices

BS,SIDE = 64,512

def _batches(n): return [range(i, min(i+BS, n)) for i in range(0, n, BS)]

def _some(hu):
    "A few values in HU of the last batch, [B,1,H,W]"
    return [round(float(v)) for v in hu[::8,0,::37,::41].ravel()]

def _stored(df):
    "What makes HU of the stored values of the last batch"
    last = df.iloc[_batches(len(df))[-1]]
    return lambda px: _some(px*last.slope.to_numpy(float).reshape(-1, 1, 1, 1) + last.intercept.to_numpy(float).reshape(-1, 1, 1, 1))

def _stacked(df, one):
    "Batches of what `one` makes of a path"
    import numpy as np
    paths = [f"{df.attrs['root']}/{p}" for p in df.path]
    def run():
        for b in _batches(len(df)): x = np.stack([one(paths[i]) for i in b])[:,None]
        return x
    return run

def ours(df, threads=None):
    "SliceReader.read, two threads a core"
    from rsna_ich.dicom.reader import SliceReader
    reader = SliceReader(df, SIDE, threads)
    def run():
        b = None
        for idxs in _batches(len(df)): b = reader.read(idxs)
        return b
    return run, lambda b: _some(b.hu(SIDE).numpy())

def ours_one_thread(df):
    "SliceReader.read, threads=1"
    return ours(df, 1)

def ours_hu(df):
    "SliceReader.read and StoredBatch.hu: float32"
    from rsna_ich.dicom.reader import SliceReader
    reader = SliceReader(df, SIDE)
    def run():
        for idxs in _batches(len(df)): hu = reader.read(idxs).hu(SIDE)
        return hu
    return run, lambda hu: _some(hu.numpy())

def pydicom(df):
    "dcmread and pixel_array, stacked"
    from pydicom import dcmread
    return _stacked(df, lambda p: dcmread(p).pixel_array), _stored(df)

def pydicom_hu(df):
    "dcmread, pixel_array, slope and intercept: float32"
    import numpy as np
    from pydicom import dcmread
    def one(p):
        ds = dcmread(p)
        return ds.pixel_array.astype(np.float32)*np.float32(ds.RescaleSlope) + np.float32(ds.RescaleIntercept)
    return _stacked(df, one), _some

def fastai(df):
    "Path.dcmread().scaled_px: float32"
    import_module('fastai.medical.imaging')
    from pydicom import dcmread # what fastai's `Path.dcmread` calls; ours stands in its place where both are loaded
    return _stacked(df, lambda p: dcmread(str(p)).scaled_px), _some

def fastai_windowed(df):
    "Path.dcmread().windowed(*dicom_windows.brain)"
    from fastai.medical.imaging import dicom_windows
    from pydicom import dcmread
    def windowed(path):
        ds = dcmread(str(path))
        return getattr(ds, '_fastai_windowed', ds.windowed)(*dicom_windows.brain)
    return _stacked(df, windowed), lambda _: None

def gdcm(df):
    "ImageReader.Read and GetBuffer"
    import gdcm, numpy as np
    types = {gdcm.PixelFormat.INT16:np.int16, gdcm.PixelFormat.UINT16:np.uint16, gdcm.PixelFormat.INT12:np.int16, gdcm.PixelFormat.UINT12:np.uint16}
    def one(p):
        reader = gdcm.ImageReader()
        reader.SetFileName(p)
        if not reader.Read(): raise ValueError('GDCM could not read a file')
        im = reader.GetImage()
        px = im.GetBuffer().encode('utf-8', 'surrogateescape')
        return np.frombuffer(px, types[im.GetPixelFormat().GetScalarType()]).reshape(im.GetDimension(1), im.GetDimension(0))
    return _stacked(df, one), _stored(df)

def simpleitk(df):
    "ReadImage and GetArrayFromImage: HU"
    import SimpleITK as sitk
    return _stacked(df, lambda p: sitk.GetArrayFromImage(sitk.ReadImage(p))[0]), _some

def monai(df):
    "LoadImage(PydicomReader): HU, float32"
    import numpy as np
    from monai.data import PydicomReader
    from monai.transforms import LoadImage
    load = LoadImage(reader=PydicomReader(), image_only=True)
    return _stacked(df, lambda p: np.asarray(load(p)).squeeze()), lambda x: _some(x.swapaxes(2, 3))

def limit(df):
    "preadv of the same bytes into one buffer, one thread"
    paths,starts = [f"{df.attrs['root']}/{p}" for p in df.path],df.pixel_offset.tolist()
    buf = memoryview(bytearray(BS*SIDE*SIDE*2)).cast('B')
    rows = [buf[i*SIDE*SIDE*2:(i+1)*SIDE*SIDE*2] for i in range(BS)]
    def run():
        for i,(p,start) in enumerate(zip(paths, starts)):
            fd = os.open(p, os.O_RDONLY)
            os.preadv(fd, [rows[i%BS]], start)
            os.close(fd)
    return run, lambda _: None

def main():
    ap = arguments(__doc__)
    ap.add_argument('--files', help=f'a folder of DICOM files, slices of {SIDE} pixels among them')
    ap.add_argument('--n', type=int, default=256, help='how many slices')
    a = ap.parse_args()
    makers = {'ours':ours, 'ours 1 thread':ours_one_thread, 'ours HU':ours_hu, 'pydicom':pydicom, 'pydicom-hu':pydicom_hu, 'fastai':fastai, 'fastai-windowed':fastai_windowed,
        'gdcm':gdcm, 'simpleitk':simpleitk, 'monai':monai, 'limit':limit}
    rows = contest(makers, slices(a.files, a.n, SIDE), rounds=a.rounds, seconds=a.seconds, same=lambda a,b: a == b)
    report('pixels', rows, a.n, 'slices/s', ('pydicom', 'fastai', 'SimpleITK', 'python-gdcm', 'monai'))

if __name__ == '__main__': main()
