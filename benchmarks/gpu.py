"""The device's part: the chain against the memory's bandwidth, copies to the device, and training images a second against the model alone

python benchmarks/gpu.py [--bs 256] [--size 256] [--steps 20]; needs no data. Runs on a CPU too, in small, and says so.
Bandwidth is that of copying a large array on the device: bytes read and bytes written. A chain that went over its bytes once, in and out, and no more,
would reach 1.00 of it."""
import argparse, subprocess, sys, time
from pathlib import Path
from statistics import median
import pandas as pd, torch
from contest import conditions, last_line
from rsna_ich.pixels import Coding, stored_to_hu
from rsna_ich.windows import CTTransform

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')

def seconds(f, steps):
    "Median seconds of `f` after three calls to warm up"
    times = []
    for i in range(steps+3):
        if CUDA: torch.cuda.synchronize()
        start = time.perf_counter()
        f()
        if CUDA: torch.cuda.synchronize()
        times.append(time.perf_counter()-start)
    return median(times[3:])

def bandwidth(mib, steps):
    "Bytes a second, read and written, of a copy on the device"
    a = torch.empty(mib << 20, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    return 2*a.numel()/seconds(lambda: b.copy_(a), steps)

def coding(n, bits, signed, intercept):
    "The coding of `n` slices"
    df = pd.DataFrame(dict(bits_stored=[bits]*n, pixel_representation=signed, slope=1., intercept=intercept))
    return Coding.of(df)

def chains(a):
    "Name, function and bytes (in, out) of each chain"
    px = torch.randint(0, 3000, (a.bs, 1, a.side, a.side), dtype=torch.int16, device=DEVICE)
    hu = torch.randint(-1000, 2000, (a.bs, 1, a.size, a.size), dtype=torch.int16, device=DEVICE)
    plain,full = CTTransform(a.size, mean=.45, std=.22).to(DEVICE).eval(),CTTransform(a.size, crop=True, aug=True, mean=.45, std=.22).to(DEVICE).train()
    kinds = dict(unsigned=coding(a.bs, 12, 0, -1024), signed=coding(a.bs, 16, 1, -1024))
    out = a.bs*3*a.size**2*4
    for k,c in kinds.items(): yield f'stored {k} to batch', lambda c=c: plain(stored_to_hu(px, c, a.size)), px.nbytes + out
    yield 'stored, crop, augment', lambda: full(stored_to_hu(px, kinds['signed'], a.size)), px.nbytes + out
    yield 'store to batch', lambda: plain(hu, True), hu.nbytes + out
    yield 'store, augment', lambda: full(hu, True), hu.nbytes + out
    if a.compile:
        fast = torch.compile(plain)
        yield 'store to batch, compiled', lambda: fast(hu, True), hu.nbytes + out

def copies(a):
    "Bytes a second to the device, of pinned and of ordinary memory"
    px = torch.zeros((a.bs, 1, a.side, a.side), dtype=torch.int16)
    for k,src in dict(pinned=px.pin_memory() if CUDA else px, pageable=px).items():
        dst = torch.empty_like(px, device=DEVICE)
        yield k, px.nbytes/seconds(lambda: dst.copy_(src), a.steps)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,v in dict(bs=256 if CUDA else 16, side=512, size=256, steps=20 if CUDA else 5, mib=2048 if CUDA else 64).items(): ap.add_argument(f'--{k}', type=int, default=v)
    ap.add_argument('--compile', action=argparse.BooleanOptionalAction, default=CUDA, help='the chain under torch.compile as well')
    ap.add_argument('--training', action=argparse.BooleanOptionalAction, default=CUDA, help='run training.py at the end')
    a = ap.parse_args()
    name = torch.cuda.get_device_name() if CUDA else f'no GPU: CPU, {torch.get_num_threads()} threads'
    with torch.inference_mode():
        most,res = bandwidth(a.mib, a.steps),{}
        print(f'{name}\ncopy on the device           {most/1e9:9,.1f} GB/s')
        for k,f,n in chains(a):
            t = seconds(f, a.steps)
            res[k] = n/t/most
            print(f'{k:28} {a.bs/t:9,.0f} images/s {n/t/1e9:9,.1f} GB/s   {res[k]:.3f} of it')
        to = dict(copies(a))
    for k,v in to.items(): print(f'copy to it, {k:16} {v/1e9:9,.1f} GB/s {v/(2*a.side**2):9,.0f} slices/s')
    shares = {k.replace(' ', '_').replace(',', ''):float(f'{v:.3g}') for k,v in res.items()}
    last_line('gpu', most/1e9, 'GB/s', a.steps, device=name, bs=a.bs, side=a.side, size=a.size, ratios=shares,
        copy={k:round(v/1e9, 2) for k,v in to.items()}, conditions=conditions('kornia'))
    if a.training: subprocess.run([sys.executable, Path(__file__).with_name('training.py')], check=True)

if __name__ == '__main__': main()
