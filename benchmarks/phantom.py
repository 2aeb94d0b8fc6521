"Slices a second that one core makes and writes as DICOM: `python benchmarks/phantom.py [--studies 4] [--sizes 512 256 128]`"
import os
for k in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[k] = '1'
import argparse, json, tempfile
from pathlib import Path
from time import perf_counter as now
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import write_dicom, write_phantom

def written(size, studies, seed):
    "Slices and seconds of a whole `write_phantom`"
    with tempfile.TemporaryDirectory() as d:
        t = now()
        df = write_phantom(Path(d)/'out', studies=studies, size=size, seed=seed)
        return len(df), now()-t

def drawn(size, studies, seed):
    "Slices and seconds without the files"
    t = now()
    n = sum(len(phantom_study((seed, i), size).hu) for i in range(studies))
    return n, now()-t

def plain(size, n=100):
    "Slices a second of `write_dicom` alone: the limit that the files set"
    hu = phantom_study(0, size, n_slices=1).hu[0]
    with tempfile.TemporaryDirectory() as d:
        t = now()
        for i in range(n): write_dicom(Path(d)/f'ID_{i:09x}.dcm', hu)
        return n/(now()-t)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--studies', type=int, default=4)
    p.add_argument('--sizes', type=int, nargs='+', default=[512, 256, 128])
    a = p.parse_args()
    written(128, 1, 9)
    out = {}
    print(f"{'size':>5} {'slices':>7} {'drawn/s':>9} {'written/s':>10} {'files alone/s':>14}")
    for size in a.sizes:
        (n,t),(m,u) = written(size, a.studies, 0), drawn(size, a.studies, 0)
        out[size] = dict(n=n, written=round(n/t, 1), drawn=round(m/u, 1), files_alone=round(plain(size), 1))
        print(f"{size:5} {n:7} {m/u:9.1f} {n/t:10.1f} {out[size]['files_alone']:14.1f}")
    top = out[a.sizes[0]]
    print(json.dumps(dict(bench='phantom', size=a.sizes[0], value=top['written'], unit='slices/s', n=top['n'], limit=top['files_alone'],
        ratio_to_limit=round(top['written']/top['files_alone'], 3), target=60, sizes=out)))

if __name__ == '__main__': main()
