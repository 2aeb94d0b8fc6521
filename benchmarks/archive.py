"""Members of a zip: listing it, and the first 2 KiB of each, ours against zipfile and against the unpacked files

python benchmarks/archive.py [--members 100000] [--slices 2000] [--repeats 3]"""
import argparse, json, random, subprocess, sys, tempfile, zipfile
from pathlib import Path
from statistics import median
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import write_dicom

OURS = '''from rsna_ich.dicom.archive import archive_order, read_head
names = archive_order
head = lambda path,names: [read_head(path, o, 2048) for o in names]'''
PEER = '''import zipfile
names = lambda path: zipfile.ZipFile(path).namelist()
def head(path, names):
    z = zipfile.ZipFile(path)
    for o in names:
        with z.open(o) as f: f.read(2048)'''
FILES = '''from pathlib import Path
names = lambda path: [p.name for p in Path(path).iterdir()]
def head(path, names):
    for o in names:
        with open(f'{path}/{o}', 'rb') as f: f.read(2048)'''
RUN = '''
import sys, time
kib = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
before,start = kib(),time.perf_counter()
got = names(sys.argv[1])
listed,after = time.perf_counter()-start,kib()
if sys.argv[2] == 'list': print(len(got), listed, (after-before)*1024/len(got))
else:
    head(sys.argv[1], got)
    start = time.perf_counter()
    head(sys.argv[1], got)
    print(len(got), time.perf_counter()-start, 0)'''

def once(code, path, what):
    "Members, seconds and bytes a member (peak, with the list of names) in a process of its own"
    out = subprocess.run([sys.executable, '-c', code + RUN, path, what], check=True, capture_output=True, text=True).stdout.split()
    return int(out[0]), float(out[1]), float(out[2])

def make(root, members, slices):
    "A zip of many small members, and one of slices beside their files"
    with zipfile.ZipFile(root/'many.zip', 'w') as z:
        for i in range(members): z.writestr(f'stage_2_train/ID_{random.getrandbits(36):09x}.dcm', b'')
    hu = phantom_study(seed=1, size=512, n_slices=8).hu
    with zipfile.ZipFile(root/'slices.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for i in range(slices):
            write_dicom(root/'files'/f'ID_{i:09x}.dcm', hu[i%8])
            z.write(root/'files'/f'ID_{i:09x}.dcm', f'stage_2_train/ID_{i:09x}.dcm')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    for k,v in dict(members=100_000, slices=2000, repeats=3).items(): ap.add_argument(f'--{k}', type=int, default=v)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        root = Path(d)
        (root/'files').mkdir()
        make(root, a.members, a.slices)
        todo = dict(ours=(OURS, 'many.zip', 'list'), zipfile=(PEER, 'many.zip', 'list'), ours_heads=(OURS, 'slices.zip', 'head'),
            zipfile_heads=(PEER, 'slices.zip', 'head'), file_heads=(FILES, 'files', 'head'))
        runs = {k:[] for k in todo}
        for _ in range(a.repeats):
            for k,(code,path,what) in todo.items(): runs[k].append(once(code, str(root/path), what))
    rate = {k:v[0][0]/median(o[1] for o in v) for k,v in runs.items()}
    room = {k:round(median(o[2] for o in runs[k])) for k in ('ours', 'zipfile')}
    for k,v in rate.items(): print(f"{k:14} {v:10,.0f} a second" + (f'  {room[k]:5} bytes a member at the peak' if k in room else ''))
    ratios = dict(zipfile=round(rate['ours_heads']/rate['zipfile_heads'], 2), files=round(rate['ours_heads']/rate['file_heads'], 2))
    res = dict(bench='archive', ours=round(rate['ours_heads']), unit='heads/s', ratios=ratios, n=a.slices, repeats=a.repeats)
    print(json.dumps(res | dict(listed={k:round(rate[k]) for k in room}, peak_bytes=room)))

if __name__ == '__main__': main()
