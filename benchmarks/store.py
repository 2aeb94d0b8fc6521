"""A prepared store to normalised float32 batches [64,3,256,256] on the CPU, all cores, in turns with copying as many bytes; and making the store

python benchmarks/store.py [--files FOLDER] [--n 1024] [--size 256]

The store is prepared from the real slices (or those under --files), over again until there are enough of them."""
import shutil, tempfile
from pathlib import Path
from contest import arguments, contest, report, slices, table

BS,MEAN,STD = 64,.45,.22

def _labelled(index):
    from rsna_ich.core.labels import LABELS
    return index.assign(**dict.fromkeys(LABELS, 0.))

def ours(root, dtype='int16'):
    "ICHDataLoaders.from_store"
    import torch
    from rsna_ich.data.loaders import ICHDataLoaders
    from rsna_ich.data.store import Store
    store = Store(f'{root}/{dtype}')
    kwargs = dict(chain=dict(mean=MEAN, std=STD), bs=BS, splitter=lambda df: ([0], list(range(len(df)))), device=torch.device('cpu'))
    dls = ICHDataLoaders.from_store(store, _labelled(store.index), **kwargs)
    def run():
        for x,_ in dls.valid: pass
        return x
    return run, lambda x: round(float(x.mean()), 2)

def raw(root, dtype='int16'):
    "StoreSlices.fetch and CTTransform, nothing in advance"
    import torch
    from rsna_ich.data.sources import StoreSlices
    from rsna_ich.data.store import Store
    from rsna_ich.vision.chain import CTTransform
    store = Store(f'{root}/{dtype}')
    source,chain = StoreSlices(store, store.index.row),CTTransform(store.settings['size'], mean=MEAN, std=STD).eval()
    def run():
        with torch.inference_mode():
            for i in range(0, len(source), BS):
                x,_ = source.fetch(range(i, min(i+BS, len(source))))
                x = chain(x.to_hu(x.as_subclass(torch.Tensor)), True)
        return x
    return run, lambda x: round(float(x.mean()), 2)

def limit(root):
    "a copy of the bytes that come out, into the same memory each time"
    import torch
    from rsna_ich.data.store import Store
    n,size,_ = Store(f'{root}/int16').pixels.shape
    src,out = torch.rand(BS, 3, size, size),torch.zeros(BS, 3, size, size)
    def run():
        for i in range(0, n, BS): out[:n-i].copy_(src[:n-i])
    return run, lambda _: None

def limit_store(root, dtype='int16'):
    "a copy of the store's own bytes, into the same memory each time"
    import torch
    from rsna_ich.data.store import Store
    px = torch.from_numpy(Store(f'{root}/{dtype}').pixels)
    out = torch.zeros_like(px[:BS])
    def run():
        for part in px.split(BS): out[:len(part)].copy_(part)
    return run, lambda _: None

def making(root, df, size, dtype):
    "prepare, files included"
    from rsna_ich.data.store import prepare
    def run():
        shutil.rmtree(f'{root}/made-{dtype}', ignore_errors=True)
        return prepare(df, f'{root}/made-{dtype}', size, dtype=dtype, device='cpu')
    return run, len

def main():
    ap = arguments(__doc__)
    ap.add_argument('--files', help='a folder of DICOM files, slices of 512 pixels among them')
    for k,v in dict(n=1024, size=256).items(): ap.add_argument(f'--{k}', type=int, default=v)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        made = contest({f'prepare {t}':(making, t) for t in ('int16', 'uint8')}, d, slices(a.files, a.n), a.size, rounds=2, seconds=0)
        table(made, a.n, 'slices/s')
        for t in ('int16', 'uint8'): Path(f'{d}/made-{t}').rename(f'{d}/{t}')
        makers = {'ours':ours, 'ours raw':raw, 'ours uint8':(ours, 'uint8'), 'ours uint8 raw':(raw, 'uint8'), 'limit':limit, 'limit-store':limit_store, 'limit-uint8-store':(limit_store, 'uint8')}
        rows = contest(makers, d, rounds=a.rounds, seconds=a.seconds, same=lambda a,b: abs(a-b) < .03)
    report('store', rows, a.n, 'slices/s', size=a.size, prepare={r.name.split()[1]:round(a.n/min(r.times), 1) for r in made})

if __name__ == '__main__': main()
