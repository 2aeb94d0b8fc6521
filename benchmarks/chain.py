"""The chain from HU to network input, and a training step with it against the step alone on resident input

python benchmarks/chain.py [--arch resnet18] [--size 256] [--bs 64] [--steps 20]; uses a GPU when there is one and says so"""
import argparse, json, time
from statistics import median
import torch
from rsna_ich.learner import build_model
from rsna_ich.metrics import WeightedLogLoss
from rsna_ich.windows import CTTransform

def seconds(f, steps, cuda):
    "Median seconds of `f` after two warm-ups"
    times = []
    for i in range(steps+2):
        if cuda: torch.cuda.synchronize()
        start = time.perf_counter()
        f()
        if cuda: torch.cuda.synchronize()
        times.append(time.perf_counter()-start)
    return median(times[2:])

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--arch', default='resnet18')
    ap.add_argument('--steps', type=int, default=20)
    for k,v in dict(size=256, side=512, bs=64).items(): ap.add_argument(f'--{k}', type=int, default=v)
    a = ap.parse_args()
    cuda = torch.cuda.is_available()
    dev = 'cuda' if cuda else 'cpu'
    hu = torch.randint(-1000, 2000, (a.bs, 1, a.side, a.side), dtype=torch.int16)
    raw,fitted = hu.to(dev),hu[...,:a.size,:a.size].contiguous().to(dev)
    y = torch.randint(0, 2, (a.bs, 6), device=dev).float()
    chain = CTTransform(a.size, crop=True, aug=True, mean=.45, std=.22).to(dev).train()
    model = build_model(a.arch, 3, False).to(dev, memory_format=torch.channels_last).train()
    opt,loss = torch.optim.AdamW(model.parameters()),WeightedLogLoss()
    def step(x):
        with torch.autocast('cuda', torch.bfloat16, enabled=cuda): out = model(x)
        loss(out, y).backward()
        opt.step()
        opt.zero_grad()
    with torch.no_grad(): x = chain(fitted, True)
    def chained():
        with torch.no_grad(): x = chain(fitted, True)
        step(x)
    with torch.no_grad(): t = dict(files=seconds(lambda: chain(raw), a.steps, cuda), store=seconds(lambda: chain(fitted, True), a.steps, cuda))
    t |= dict(model=seconds(lambda: step(x), a.steps, cuda), training=seconds(chained, a.steps, cuda))
    if cuda: t['copy'] = seconds(lambda: hu.pin_memory().to(dev), a.steps, cuda)
    for k,v in t.items(): print(f'{k:10} {1e3*v:8.2f} ms a batch  {a.bs/v:9.0f} images/s')
    device = torch.cuda.get_device_name() if cuda else f'CPU, {torch.get_num_threads()} threads'
    print(json.dumps(dict(bench='chain', device=device, arch=a.arch, size=a.size, side=a.side, bs=a.bs, ours=round(a.bs/t['training']), unit='images/s',
        ratios=dict(model_alone=round(t['model']/t['training'], 3)), n=a.steps)))

if __name__ == '__main__': main()
