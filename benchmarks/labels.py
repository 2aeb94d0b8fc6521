"""Kaggle's long label CSV into one row an image: ours, pandas and polars in turn, and reading the CSV alone as the limit

python benchmarks/labels.py stage_1_train.csv

`pandas` splits and pivots, as the competition's notebooks do. `polars` does our job: ids of any length, repeats dropped, contradictions and unknown
endings refused. `polars-fixed` is the fastest that we found: it takes it on trust that an id has 12 characters, that all endings are known and that
repeats agree. Each turn is in a new process; imports count for the memory, not for the time."""
from functools import partial
from importlib import import_module
from pathlib import Path
from contest import arguments, contest, report

LABELS = ['any', 'epidural', 'intraparenchymal', 'intraventricular', 'subarachnoid', 'subdural']

def sums(df): return len(df), [int(df[l].sum()) for l in LABELS]

def ours(csv):
    "labels.read_labels"
    for o in ('compute', 'csv'): import_module(f'pyarrow.{o}')
    from rsna_ich.data.label_files import read_labels
    return partial(read_labels, csv), sums

def pandas(csv):
    "rsplit and pivot"
    import pandas as pd
    import_module('pyarrow')
    def run():
        df = pd.read_csv(csv)
        df[['ID', 'label']] = df.ID.str.rsplit('_', n=1, expand=True)
        return df.drop_duplicates(['ID', 'label']).pivot(index='ID', columns='label', values='Label')
    return run, sums

def polars(csv):
    "scan_csv and group_by, with our checks"
    import polars as pl
    def run():
        own = {l:pl.col('ID').str.ends_with('_'+l) for l in LABELS}
        ending = pl.coalesce(pl.when(o).then(len(l)+1) for l,o in own.items())
        sop = pl.col('ID').str.head(pl.col('ID').str.len_bytes() - ending)
        most,least = [{f'{l}{end}':getattr(pl.when(o).then('Label'), f)() for l,o in own.items()} for f,end in (('max', ''), ('min', '_min'))]
        df = pl.scan_csv(csv, schema_overrides=dict(Label=pl.Int8)).group_by(sop=sop).agg(pl.len(), **most, **least).collect()
        if df['sop'].has_nulls(): raise ValueError('unknown labels')
        if df.select(pl.any_horizontal(pl.col(l) != pl.col(f'{l}_min') for l in LABELS).any()).item(): raise ValueError('contradictions')
        return df
    return run, sums

def polars_fixed(csv):
    "scan_csv and group_by, without checks"
    import polars as pl
    labels = {l:pl.when(pl.col('ID').str.ends_with('_'+l)).then('Label').max() for l in LABELS}
    return pl.scan_csv(csv, schema_overrides=dict(Label=pl.Int8)).group_by(sop=pl.col('ID').str.head(12)).agg(**labels).collect, sums

def limit(csv):
    "pyarrow.csv.read_csv alone"
    from pyarrow.csv import read_csv
    return partial(read_csv, csv), lambda _: None

def main():
    ap = arguments(__doc__)
    ap.add_argument('csv')
    a = ap.parse_args()
    if not Path(a.csv).is_file(): ap.error(f"{a.csv} is not a file; give it Kaggle's long label CSV")
    makers = {'ours':ours, 'pandas':pandas, 'polars':polars, 'polars-fixed':polars_fixed, 'limit':limit}
    rows = contest(makers, a.csv, rounds=a.rounds, seconds=0, fresh=True, same=lambda a,b: a == b)
    report('labels', rows, rows[0].seen[0], 's', ('pandas', 'polars', 'pyarrow'), peak_mib={r.key:round(r.peak) for r in rows if not r.why})

if __name__ == '__main__': main()
