"""Pixels of many slices into batches [B,1,512,512]: ours, what people would use instead, and reading the same bytes alone, in turns

python benchmarks/pixels.py [--files FOLDER] [--n 256]"""
import os, tempfile
from contest import SHARED, arguments, contest, report

BS = 64

def slices(folder, n, side=512):
    "The first `n` plain slices of one side under `folder`, as a header table"
    from rsna_ich.headers import scan
    df = scan(folder, workers=1)
    df = df[df.error.isna() & df.pixel_offset.notna() & (df.rows == side) & (df.cols == side) & ~df['flags'].fillna('').str.contains('fixed')].head(n)
    if not len(df): raise SystemExit(f'{folder}: no uncompressed slices of {side} pixels')
    return df.reset_index(drop=True)
