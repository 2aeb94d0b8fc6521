"""How much of a training step is not the model: the step alone on one resident batch, and the step fed from a store and from files, in turns

python benchmarks/training.py [--arch resnet18] [--size 128] [--bs 32] [--steps 8] [--files FOLDER]; on a GPU, when there is one, in bf16, at 256 pixels,
64 at a time and 50 steps. Reading, HU, crop, augmentation, windows and the copy to the device are all in the fed steps. `learner` is an epoch of
`ich_learner` from files: fastai's loop, callbacks and optimizer as well."""
import argparse, tempfile, time
from inspect import signature
from pathlib import Path
from statistics import median
import torch
from fastai.callback.core import Callback
from contest import conditions, last_line, slices
from rsna_ich.core.labels import LABELS
from rsna_ich.data.store import prepare
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.metrics import WeightedLogLoss
from rsna_ich.learn.bodies import build_model
from rsna_ich.learn.learner import ich_learner

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')
NAME = torch.cuda.get_device_name() if CUDA else f'no GPU: CPU, {torch.get_num_threads()} threads'
SKIP = 2 # steps at the beginning of a turn that don't count: their batches may have been ready

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

def fed(step, batches, n):
    "A function for the seconds of a step, from `n` of them fed by `batches`"
    def turn():
        for _ in range(SKIP): step(*next(batches))
        start = now()
        for _ in range(n): step(*next(batches))
        return (now()-start)/n
    return turn

class Clock(Callback):
    def before_batch(self):
        if self.training and self.iter == SKIP: self.start = now()
    def after_train(self): self.seconds = (now()-self.start)/(self.n_iter-SKIP)

def learner(dls, arch):
    "A function for the seconds of a step, from an epoch of the library's learner"
    clock = Clock()
    learn = ich_learner(dls, arch, pretrained=False, metrics=[], cbs=[clock])
    def turn():
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        return clock.seconds
    return turn

def tables(files, n, size, folder):
    "A slice table with labels, and a store of it"
    df = slices(files, n).assign(**{l:float(i%2) for i,l in enumerate(LABELS)})
    df['sop'] = [f'{s}_{i}' for i,s in enumerate(df.sop)] # over again where there are fewer than n
    return df, prepare(df, folder/'store', size)

def measure(arch='resnet18', size=256 if CUDA else 128, bs=64 if CUDA else 32, steps=50 if CUDA else 8, n=2048 if CUDA else 256, rounds=3, files=None):
    "Seconds an image of each kind of step, a figure a turn"
    with tempfile.TemporaryDirectory() as d:
        df,store = tables(files, n, size, Path(d))
        all_,chain = list(range(len(df))),dict(size=size, aug=True, mean=.45, std=.22)
        kwargs = dict(bs=bs, device=DEVICE, splitter=lambda _: (all_, all_[:bs]))
        from_files = ICHDataLoaders.from_table(df, 2*size, chain | dict(crop=True), **kwargs)
        from_store = ICHDataLoaders.from_store(store, store.index, chain, **kwargs)
        step,resident = Step(arch),from_store.one_batch()
        turns = {k:fed(step, endless(b), steps) for k,b in dict(model=[resident], store=from_store.train, files=from_files.train).items()}
        turns['learner'] = learner(ICHDataLoaders.from_table(df, 2*size, chain | dict(crop=True), **kwargs), arch)
        times = [{k:f()/bs for k,f in turns.items()} for _ in range(rounds)]
    return {k:[t[k] for t in times] for k in turns}

def shares(times): return {k:float(f"{median(m/t for m,t in zip(times['model'], v)):.3g}") for k,v in times.items() if k != 'model'}

def table(times):
    for k,v in times.items():
        print(f"{k:8} {1/median(v):9,.1f} images/s{'' if k == 'model' else f'   {shares(times)[k]:.3f} of the model alone'}")

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,p in signature(measure).parameters.items(): ap.add_argument(f'--{k}', type=type(p.default or ''), default=p.default)
    a = ap.parse_args()
    times = measure(**vars(a))
    print(f'{NAME}: {a.arch}, {a.size} px, batches of {a.bs}, {a.steps} steps, median of {a.rounds} turns')
    table(times)
    last_line('training', 1/median(times['files']), 'images/s', a.steps*a.bs, device=NAME, arch=a.arch, size=a.size, bs=a.bs, rounds=a.rounds,
        ratios={f'model_alone_{k}':v for k,v in shares(times).items()}, conditions=conditions('fastai', 'timm'))

if __name__ == '__main__': main()
