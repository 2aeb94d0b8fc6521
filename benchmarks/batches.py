"""Raw DICOM files to normalised float32 batches [64,3,256,256] on the CPU, all cores: ours, fastai and MONAI, in turns

python benchmarks/batches.py [--files FOLDER] [--n 320]; the real slices are read without --files

Brain, subdural and bone windows of the whole picture. fastai windows and then resizes, as `to_nchan` has it; MONAI resizes first, as we do, which is
less work. The means of the channels must agree."""
import os, numpy as np
from contest import arguments, contest, report, slices

BS,SIZE,WINDOWS,MEAN,STD = 64,256,((80,40), (254,100), (2800,600)),.45,.22

def _all(batches, turned=False):
    "Go through all batches; look at a coarse picture of the last one's first slice"
    def run():
        for b in batches(): x = b
        return x
    def look(x):
        x = np.asarray(x[0])
        x = x.swapaxes(1, 2) if turned else x
        return (x.reshape(len(WINDOWS), 16, SIZE//16, 16, SIZE//16).mean((2, 4))*STD + MEAN).round(3)
    return run, look

def ours(df, num_workers=0):
    "ICHDataLoaders.from_table"
    import torch
    from rsna_ich.core.labels import LABELS
    from rsna_ich.data.loaders import ICHDataLoaders
    labelled = df.assign(**dict.fromkeys(LABELS, 0.))
    labelled.attrs = df.attrs
    chain = dict(size=SIZE, windows=WINDOWS, mean=MEAN, std=STD)
    kwargs = dict(bs=BS, splitter=lambda df: ([0], list(range(len(df)))), num_workers=num_workers, device=torch.device('cpu'))
    dls = ICHDataLoaders.from_table(labelled, SIZE, chain, **kwargs)
    return _all(lambda: (x for x,_ in dls.valid))

def ours_reader(df):
    "SliceReader.read, StoredBatch.hu and CTTransform, nothing in advance"
    import torch
    from rsna_ich.dicom.reader import SliceReader
    from rsna_ich.vision.chain import CTTransform
    reader,chain = SliceReader(df, SIZE),CTTransform(SIZE, WINDOWS, mean=MEAN, std=STD).eval()
    def batches():
        with torch.inference_mode():
            for i in range(0, len(df), BS): yield chain(reader.read(range(i, min(i+BS, len(df)))).hu(SIZE))
    return _all(batches)

def _paths(df): return [f"{df.attrs['root']}/{p}" for p in df.path]

def fastai(df, num_workers):
    "DataBlock of Path.dcmread().to_nchan(windows), resized, Normalize on the batch"
    from pathlib import Path
    from torch.nn.functional import interpolate
    from fastai.medical.imaging import DataBlock, Normalize, TensorImage, TransformBlock
    from pydicom import dcmread # what fastai's `Path.dcmread` calls; ours stands in its place where both are loaded
    import torch
    def nchan(path): return TensorImage(interpolate(dcmread(str(path)).to_nchan(WINDOWS, bins=0)[None], (SIZE, SIZE), mode='area')[0])
    stats = Normalize.from_stats([MEAN]*3, [STD]*3, cuda=False)
    block = DataBlock(TransformBlock(nchan, batch_tfms=stats), splitter=lambda items: ([0], list(range(len(items)))))
    dls = block.dataloaders([Path(p) for p in _paths(df)], bs=BS, num_workers=num_workers, device=torch.device('cpu'))
    return _all(lambda: (x for x, in dls.valid))

def monai(df, num_workers, track_meta=True):
    "dictionary transforms: LoadImaged(PydicomReader), Resized, ScaleIntensityRanged, ConcatItemsd, NormalizeIntensityd"
    from monai.data import DataLoader, Dataset, PydicomReader, set_track_meta
    from monai.transforms import Compose, ConcatItemsd, CopyItemsd, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Resized, ScaleIntensityRanged
    set_track_meta(track_meta)
    names = [f'window{i}' for i in range(len(WINDOWS))]
    cut = [ScaleIntensityRanged(k, l-w/2, l+w/2, 0., 1., clip=True) for k,(w,l) in zip(names, WINDOWS)]
    tfm = Compose([LoadImaged('image', reader=PydicomReader()), EnsureChannelFirstd('image', channel_dim='no_channel'), Resized('image', (SIZE, SIZE), mode='area'), CopyItemsd('image', len(names), names),
        *cut, ConcatItemsd(names, 'image'), NormalizeIntensityd('image', MEAN, STD)])
    dl = DataLoader(Dataset([dict(image=p) for p in _paths(df)], tfm), batch_size=BS, num_workers=num_workers)
    return _all(lambda: (b['image'] for b in dl), turned=True)

def monai_untracked(df, num_workers):
    "the same after set_track_meta(False)"
    return monai(df, num_workers, False)

def alike(a, b): return abs(a-b).mean() < .005

def main():
    ap = arguments(__doc__, rounds=3)
    ap.add_argument('--files', help='a folder of DICOM files, slices of 512 pixels among them')
    ap.add_argument('--n', type=int, default=320, help='how many slices')
    a = ap.parse_args()
    k = os.cpu_count()
    makers = {'ours':ours, f'ours {k} workers':(ours, k), 'ours raw':ours_reader}
    for name,f in {'fastai':fastai, 'monai':monai, 'monai untracked':monai_untracked}.items(): makers |= {f'{name}, {w} workers':(f, w) for w in (0, k)}
    rows = contest(makers, slices(a.files, a.n), rounds=a.rounds, seconds=a.seconds, same=alike)
    report('batches', rows, a.n, 'slices/s', ('pydicom', 'fastai', 'monai'))

if __name__ == '__main__': main()
