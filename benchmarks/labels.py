"""Kaggle's long label CSV into one row an image: ours, pandas and polars in turn, and reading the CSV alone as the limit

python benchmarks/labels.py stage_1_train.csv [--repeats 5]

`pandas` splits and pivots, as the competition's notebooks do. `polars` does our job: ids of any length, repeats dropped, contradictions and unknown endings refused. `polars_fixed` is the
fastest that we found: it takes it on trust that an id has 12 characters, that all endings are known and that repeats agree."""
import argparse, json, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median

LABELS = ['any', 'epidural', 'intraparenchymal', 'intraventricular', 'subarachnoid', 'subdural']
SUMS = '''
def sums(df): return [int(df[l].sum()) for l in LABELS]'''
READERS = dict(
    ours='''from rsna_ich.labels import read_labels as read
import pyarrow.compute, pyarrow.csv''' + SUMS,
    pandas='''import pandas as pd, pyarrow
def read(csv):
    df = pd.read_csv(csv)
    df[['ID', 'label']] = df.ID.str.rsplit('_', n=1, expand=True)
    return df.drop_duplicates(['ID', 'label']).pivot(index='ID', columns='label', values='Label')''' + SUMS,
    polars='''import polars as pl
def read(csv):
    own = {l:pl.col('ID').str.ends_with('_'+l) for l in LABELS}
    ending = pl.coalesce(pl.when(o).then(len(l)+1) for l,o in own.items())
    sop = pl.col('ID').str.head(pl.col('ID').str.len_bytes() - ending)
    most,least = [{f'{l}{end}':getattr(pl.when(o).then('Label'), f)() for l,o in own.items()} for f,end in (('max', ''), ('min', '_min'))]
    df = pl.scan_csv(csv, schema_overrides=dict(Label=pl.Int8)).group_by(sop=sop).agg(pl.len(), **most, **least).collect()
    if df['sop'].has_nulls(): raise ValueError('unknown labels')
    if df.select(pl.any_horizontal(pl.col(l) != pl.col(f'{l}_min') for l in LABELS).any()).item(): raise ValueError('contradictions')
    return df''' + SUMS,
    polars_fixed='''import polars as pl
def read(csv):
    labels = {l:pl.when(pl.col('ID').str.ends_with('_'+l)).then('Label').max() for l in LABELS}
    return pl.scan_csv(csv, schema_overrides=dict(Label=pl.Int8)).group_by(sop=pl.col('ID').str.head(12)).agg(**labels).collect()''' + SUMS,
    limit='''from pyarrow.csv import read_csv as read
def sums(t): return None''')
RUN = '''
import json, resource, sys, time
start = time.perf_counter()
df = read(sys.argv[1])
secs,mib = time.perf_counter()-start,resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
print(json.dumps(dict(secs=secs, mib=round(mib), rows=len(df), sums=sums(df))))'''

def once(code, csv):
    "Seconds, peak MiB, rows and sums of one reader in a process of its own; imports count for the memory, not for the time"
    return json.loads(subprocess.run([sys.executable, '-c', f'{LABELS=}\n{code}{RUN}', csv], check=True, stdout=subprocess.PIPE, text=True).stdout)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('csv')
    ap.add_argument('--repeats', type=int, default=5)
    a = ap.parse_args()
    if not find_spec('polars'): ap.error("polars, one of the contestants, is not installed; pip install -e '.[bench]'")
    if not Path(a.csv).is_file(): ap.error(f"{a.csv} is not a file; give it Kaggle's long label CSV")
    runs = [{name:once(code, a.csv) for name,code in READERS.items()} for _ in range(a.repeats)]
    found = {(r[name]['rows'], *r[name]['sums']) for r in runs for name in READERS if name != 'limit'}
    if len(found) > 1: sys.exit(f'the readers disagree on the number of images and the sums of the labels: {found}')
    secs = {name:median(r[name]['secs'] for r in runs) for name in READERS}
    mib = {name:max(r[name]['mib'] for r in runs) for name in READERS}
    print(f"{'reader':14}{'seconds':>8}{'fastest':>9}{'MiB':>7}{'x ours':>8}")
    for name,s in secs.items(): print(f"{name:14}{s:8.2f}{min(r[name]['secs'] for r in runs):9.2f}{mib[name]:7}{s/secs['ours']:8.2f}")
    ratios = {name:round(s/secs['ours'], 2) for name,s in secs.items() if name != 'ours'}
    print(json.dumps(dict(bench='labels', ours=round(secs['ours'], 3), unit='s', ratios=ratios, n=runs[0]['ours']['rows'], repeats=a.repeats, peak_mib=mib)))

if __name__ == '__main__': main()
