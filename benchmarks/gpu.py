"""The device's part: the chain against the memory's bandwidth, copies to the device, and training images a second against the model alone

python benchmarks/gpu.py [--bs 256] [--size 256] [--steps 20]. Runs on a CPU too, in small, and says so. The training part is that of training.py, needs
slices of 512 pixels (the real ones, or those under --files), and is left out with --no-training.
Bandwidth is that of copying a large array on the device: bytes read and bytes written. A chain that went over its bytes once, in and out, and no more,
would reach 1.00 of it."""
import argparse
from statistics import median
import pandas as pd, torch
from contest import conditions, last_line
import training
from rsna_ich.dicom.batch_hu import PixelCoding, stored_to_hu
from rsna_ich.vision.chain import CTTransform

CUDA,DEVICE = training.CUDA,training.DEVICE

def seconds(f, steps):
    "Median seconds of `f` after three calls to warm up"
    times = []
    for i in range(steps+3):
        start = training.now()
        f()
        times.append(training.now()-start)
    return median(times[3:])

def bandwidth(mib, steps):
    "Bytes a second, read and written, of a copy on the device"
    a = torch.empty(mib << 20, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    return 2*a.numel()/seconds(lambda: b.copy_(a), steps)

def coding(n, bits, signed, intercept):
    "The coding of `n` slices"
    df = pd.DataFrame(dict(bits_stored=[bits]*n, pixel_representation=signed, slope=1., intercept=intercept))
    return PixelCoding.of(df)

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
        yield 'store to batch, compiled', lambda f=torch.compile(plain): f(hu, True), hu.nbytes + out
        if a.side == 2*a.size: yield 'stored to batch, fused', lambda f=torch.compile(fused): f(px, plain.steps.channels), px.nbytes + out

def fused(px, window):
    "What a signed batch of twice the size comes to, told in one go: how far a compiler could bring it"
    hu = px.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).float().mean((-3, -1)) - 1024
    return ((hu.round().clamp(-1000, 3071) - window.level)/window.width + .5).clamp(0, 1).sub(window.mean).div(window.std)

def copies(a):
    "Bytes a second to the device, of pinned and of ordinary memory"
    px = torch.zeros((a.bs, 1, a.side, a.side), dtype=torch.int16)
    for k,src in dict(pinned=px.pin_memory() if CUDA else px, pageable=px).items():
        dst = torch.empty_like(px, device=DEVICE)
        yield k, px.nbytes/seconds(lambda: dst.copy_(src), a.steps)

def rates(a, most):
    "Print each chain's line; its share of the bandwidth `most`"
    res = {}
    for k,f,n in chains(a):
        try: t = seconds(f, a.steps)
        except Exception as e:
            if not k.endswith(('compiled', 'fused')): raise
            print(f'{k:28} failed, {type(e).__name__}')
            continue
        res[k] = n/t/most
        print(f'{k:28} {a.bs/t:9,.0f} images/s {n/t/1e9:9,.1f} GB/s   {res[k]:.3f} of it')
    return res

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = dict(bs=256, side=512, size=256, steps=20, mib=2048) if CUDA else dict(bs=16, side=512, size=256, steps=5, mib=64)
    for k,v in defaults.items(): ap.add_argument(f'--{k}', type=int, default=v)
    ap.add_argument('--compile', action=argparse.BooleanOptionalAction, default=CUDA, help='the chain under torch.compile as well')
    ap.add_argument('--training', action=argparse.BooleanOptionalAction, default=CUDA, help="what training.py measures, with its defaults, as well")
    ap.add_argument('--files', help='a folder of slices of 512 pixels for that; the real ones when not given')
    a = ap.parse_args()
    with torch.inference_mode():
        most = bandwidth(a.mib, a.steps)
        print(f"{training.NAME}\n{'copy on the device':46} {most/1e9:9,.1f} GB/s")
        res,to = rates(a, most),dict(copies(a))
    for k,v in to.items(): print(f"{f'copy to it, {k}':28} {v/(2*a.side**2):9,.0f} slices/s {v/1e9:9,.1f} GB/s")
    ratios = {k.replace(',', '').replace(' ', '_'):v for k,v in res.items()}
    if a.training:
        times = training.measure(files=a.files)
        training.table(times)
        ratios |= {f'model_alone_{k}':v for k,v in training.shares(times).items()}
    last_line('gpu', res['stored signed to batch']*most/1e9, 'GB/s', a.bs, device=training.NAME, side=a.side, size=a.size, ratios={k:float(f'{v:.3g}') for k,v in ratios.items()},
        copy_on_device=round(most/1e9, 1), copy={k:round(v/1e9, 2) for k,v in to.items()}, conditions=conditions('kornia', 'timm'))

if __name__ == '__main__': main()
