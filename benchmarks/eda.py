"""The exploratory report on tables of the challenge's size: all label lines, 700,000 header rows with pixel statistics, and the real slices for the galleries

python benchmarks/eda.py stage_1_train.csv [--rows 700000] [--headers CSV] [--files FOLDER]

Header rows are those of --headers (the real test set's when not given), over again with new patients, studies and series, and with the labels' images. The
limit is reading the two tables and nothing else. Each turn is in a new process; imports count for the memory, not for the time."""
import tempfile
from importlib import import_module
from pathlib import Path
from contest import SHARED, arguments, contest, report

def tables(csv, headers, files, rows, out):
    "Save a header table of `rows` rows, the first of which are those of `files`"
    import numpy as np, pandas as pd
    from rsna_ich.dicom.header_rows import HEADER_COLS
    from rsna_ich.dicom.header_files import load_headers, save_headers
    from rsna_ich.dicom.scanning import scan
    from rsna_ich.data.label_files import read_labels
    from rsna_ich.data.stats import pixel_stats
    real,like,sops = pixel_stats(scan(files)),load_headers(headers),read_labels(csv).sop
    sops = sops[~sops.isin(real.sop)].to_numpy(object)[:rows]
    again,rng = np.arange(rows)//len(like),np.random.default_rng(0)
    df = like.iloc[np.arange(rows) % len(like)].reset_index(drop=True)
    df = df.assign(**{c:df[c] + '_' + again.astype(str) for c in ('patient', 'study', 'series')}, path=np.resize(real.path.to_numpy(object), rows))
    df['sop'] = np.r_[sops, [f'ID_more{i}' for i in range(rows-len(sops))]]
    stats = [c for c in real if c not in HEADER_COLS]
    some = real[stats].iloc[rng.integers(0, len(real), rows)].reset_index(drop=True)
    some['hu_hash'] = rng.permutation(rows).astype(str)
    df = pd.concat([real, pd.concat([df, some], axis=1)], ignore_index=True)
    df.attrs['root'] = str(files)
    save_headers(df, out)

def ours(csv, headers, test):
    "eda: both tables read, all sections, report written"
    for o in 'headers images labels pixels steps splits'.split(): import_module(f'rsna_ich.eda.{o}')
    from rsna_ich.eda.report import eda
    from rsna_ich.dicom.header_files import load_headers
    from rsna_ich.data.label_files import read_labels
    def run():
        with tempfile.TemporaryDirectory() as d:
            res = eda(d, load_headers(headers), read_labels(csv), load_headers(test))
            return res | dict(bytes=(Path(d)/'report.html').stat().st_size)
    return run, lambda res: (res['seconds'], res['bytes'])

def limit(csv, headers, test):
    "reading the tables"
    from rsna_ich.dicom.header_files import load_headers
    from rsna_ich.data.label_files import read_labels
    return lambda: (load_headers(headers), read_labels(csv), load_headers(test)), lambda _: None

def main():
    ap = arguments(__doc__, rounds=3)
    ap.add_argument('csv')
    ap.add_argument('--rows', type=int, default=700_000)
    ap.add_argument('--headers', default=SHARED/'stage_1_test_headers.csv.gz')
    ap.add_argument('--files', default=SHARED/'dicom')
    a = ap.parse_args()
    if not Path(a.csv).is_file(): ap.error(f"{a.csv} is not a file; give it Kaggle's long label CSV")
    with tempfile.TemporaryDirectory() as d:
        tables(a.csv, a.headers, Path(a.files).resolve(), a.rows, f'{d}/headers.parquet')
        rows = contest({'ours':ours, 'limit':limit}, a.csv, f'{d}/headers.parquet', str(a.headers), rounds=a.rounds, seconds=0, fresh=True)
    sections,size = rows[0].seen
    report('eda', rows, a.rows, 's', ('pandas',), peak_mib={r.key:round(r.peak) for r in rows if not r.why}, sections=sections, report_mb=round(size/1e6, 1))

if __name__ == '__main__': main()
