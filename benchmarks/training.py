"""How much of a training step is not the model: the step alone on one resident batch, and the step fed from files and from a store, in turns

python benchmarks/training.py [--arch resnet18] [--size 128] [--bs 32] [--steps 8] [--files FOLDER]; on a GPU, when there is one, in bf16, at 256 pixels,
64 at a time and 50 steps. Reading, HU, crop, augmentation, windows and the copy to the device are all in the fed steps."""
import argparse, tempfile, time
from pathlib import Path
from statistics import median
import torch
from contest import conditions, last_line, slices
from rsna_ich.core import LABELS
from rsna_ich.data import ICHDataLoaders
from rsna_ich.learner import build_model
from rsna_ich.metrics import WeightedLogLoss
from rsna_ich.store import prepare

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')

def now():
    if CUDA: torch.cuda.synchronize()
    return time.perf_counter()

class Step:
    "A training step of a network, as fastai makes one with `to_bf16` and channels last"
    def __init__(self, arch):
        self.model = build_model(arch, 3, False).to(DEVICE, memory_format=torch.channels_last).train()
        self.opt,self.loss = torch.optim.AdamW(self.model.parameters(), fused=CUDA),WeightedLogLoss()
    def __call__(self, x, y):
        with torch.autocast('cuda', torch.bfloat16, enabled=CUDA): out = self.model(x.as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last))
        self.loss(out.float(), y.as_subclass(torch.Tensor)).backward()
        self.opt.step()
        self.opt.zero_grad()

def endless(dl):
    while True: yield from dl

def seconds(step, batches, n):
    "Seconds of `n` steps fed by `batches`, the next two of which are thrown away first"
    for _ in range(2): step(*next(batches))
    start = now()
    for _ in range(n): step(*next(batches))
    return now()-start

def tables(a, folder):
    "A slice table with labels, and a store of it"
    df = slices(a.files, a.n).assign(**{l:float(i%2) for i,l in enumerate(LABELS)})
    df['sop'] = [f'{s}_{i}' for i,s in enumerate(df.sop)] # over again where there are fewer than n
    store = prepare(df, folder/'store', a.size)
    return df, store, store.index

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--arch', default='resnet18')
    ap.add_argument('--files', help='a folder of slices of 512 pixels; the real ones when not given')
    defaults = dict(size=256, bs=64, steps=50, n=2048, rounds=3) if CUDA else dict(size=128, bs=32, steps=8, n=256, rounds=3)
    for k,v in defaults.items(): ap.add_argument(f'--{k}', type=int, default=v)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        df,store,index = tables(a, Path(d))
        all_,chain = list(range(len(df))),dict(size=a.size, aug=True, mean=.45, std=.22)
        kwargs = dict(bs=a.bs, device=DEVICE, splitter=lambda _: (all_, all_[:a.bs]))
        files = ICHDataLoaders.from_table(df, 2*a.size, chain | dict(crop=True), **kwargs).train
        kept = ICHDataLoaders.from_store(store, index, chain, **kwargs).train
        resident = kept.one_batch()
        step,times = Step(a.arch),dict(model=[], store=[], files=[])
        fed = dict(model=endless([resident]), store=endless(kept), files=endless(files))
        for _ in range(a.rounds):
            for k,b in fed.items(): times[k].append(seconds(step, b, a.steps))
    rate = {k:a.steps*a.bs/median(v) for k,v in times.items()}
    share = {k:median(m/t for m,t in zip(times['model'], times[k])) for k in ('store', 'files')}
    name = torch.cuda.get_device_name() if CUDA else f'CPU, {torch.get_num_threads()} threads'
    print(f'{name}: {a.arch}, {a.size} px, batches of {a.bs}, {a.steps} steps, median of {a.rounds} turns')
    for k,v in rate.items(): print(f"{k:8} {v:9,.1f} images/s{'' if k == 'model' else f'   {share[k]:.3f} of the model alone'}")
    last_line('training', rate['files'], 'images/s', a.steps*a.bs, device=name, arch=a.arch, size=a.size, bs=a.bs, rounds=a.rounds,
        ratios={f'model_alone_{k}':float(f'{v:.3g}') for k,v in share.items()}, conditions=conditions('timm'))

if __name__ == '__main__': main()
