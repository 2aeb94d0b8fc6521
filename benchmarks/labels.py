"""Kaggle's long label CSV into one row an image: ours against pandas' rsplit and pivot, in turn

python benchmarks/labels.py stage_1_train.csv [--repeats 3]"""
import argparse, json, subprocess, sys
from statistics import median

OURS = '''from rsna_ich.labels import read_labels
f = read_labels'''
PANDAS = '''import pandas as pd
def f(csv):
    df = pd.read_csv(csv).drop_duplicates('ID')
    df[['ID', 'sub']] = df.ID.str.rsplit('_', n=1, expand=True)
    return df.pivot(index='ID', columns='sub', values='Label')'''
RUN = '''
import resource, sys, time
start = time.perf_counter()
n = len(f(sys.argv[1]))
print(n, time.perf_counter()-start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)'''

def once(code, csv):
    "Rows, seconds and peak MiB of one reader in a process of its own, imports of libraries not timed"
    out = subprocess.run([sys.executable, '-c', code + RUN, csv], check=True, capture_output=True, text=True).stdout.split()
    return int(out[0]), float(out[1]), float(out[2])

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('csv')
    ap.add_argument('--repeats', type=int, default=3)
    a = ap.parse_args()
    runs = [(once(OURS, a.csv), once(PANDAS, a.csv)) for _ in range(a.repeats)]
    rows,secs,mib = [[[r[k][i] for r in runs] for k in (0, 1)] for i in (0, 1, 2)]
    assert rows[0][0] == rows[1][0], 'the readers disagree on the number of images'
    for name,t,m in zip(('ours', 'pandas'), secs, mib): print(f'{name:8} {median(t):6.2f} s  {max(m):6.0f} MiB')
    ours,peer = map(median, secs)
    res = dict(bench='labels', ours=round(ours, 2), unit='s', ratios=dict(pandas=round(peer/ours, 2)), n=rows[0][0], repeats=a.repeats)
    print(json.dumps(res | dict(peak_mib=dict(ours=max(mib[0]), pandas=max(mib[1])))))

if __name__ == '__main__': main()
