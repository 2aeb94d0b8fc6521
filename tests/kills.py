"""Kill scan, prepare, train and predict at random moments, look at what is left, let them finish, and compare the bytes

python -m tests.kills [--kills 100] [--seed 0]; prints a table and a line of JSON. Each run is a fork of a process that has everything imported and
nothing computed, so that the moments fall into the work and not into the imports."""
import argparse, json, os, shutil, signal, sys, tempfile, time, warnings
from functools import partial
from pathlib import Path
import numpy as np
from rsna_ich.core.errors import DataError, ModelError
from rsna_ich.dicom.header_files import load_headers, save_headers
from rsna_ich.dicom.scanning import scan, scan_to
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.submission import save_predictions
from rsna_ich.data.tables import slice_table
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.answer.inference import predict
from rsna_ich.phantom.files import write_phantom
from rsna_ich.data import store as store_module
from rsna_ich.dicom import scanning

def forked(f):
    "Run `f` in a fork; its process id"
    pid = os.fork()
    if pid: return pid
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        for fd in (1, 2): os.dup2(null, fd)
        warnings.simplefilter('ignore')
        f()
    except BaseException: os._exit(1)
    os._exit(0)

def finish(f):
    "Run `f` in a fork to its end; seconds"
    start = time.perf_counter()
    assert os.waitpid(forked(f), 0)[1] == 0, 'a run that nobody killed failed'
    return time.perf_counter()-start

def bytes_of(path):
    "The bytes of a file, or of all files in a folder but a training's log, which tells the seconds; None where there is nothing"
    if path.is_dir(): return {o.relative_to(path):o.read_bytes() for o in sorted(path.rglob('*')) if o.is_file() and o.stem != 'training'}
    return path.read_bytes() if path.exists() else None

class Job:
    "One stage: how to run it, and how to open what it leaves: that raises one of our errors, or gives the whole"
    def __init__(self, run, open_, fails): self.run,self.open,self.fails = run,open_,fails
    def whole(self, out, want):
        "Whether `out` is refused as unfinished, or is the whole; anything else is corrupt"
        def look():
            try: self.open(out)
            except self.fails: os._exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(forked(look), 0)[1])
        got = bytes_of(out)
        if isinstance(got, dict): got = {k:v for k,v in got.items() if k.name != 'checkpoint.safetensors'} # of a training that was killed after its model was there; the next run takes it away
        return code == 7 or (code == 0 and got == want)

def _train(root, out):
    df = slice_table(load_headers(root/'h.parquet'), read_labels(root/'data'/'labels.csv'))
    train_model(df, out, 'mobilenetv3_small_050', size=32, epochs=1, lr=3e-3, pretrained=False, n_folds=3, bs=16, crop=False)

def jobs(root):
    scanning.FILES_PER_PART = 8
    store_module.BATCHES_BETWEEN_NOTES = 1
    def prepared(out): store_module.prepare(load_headers(root/'h.parquet'), out, size=32, bs=4)
    def predicted(out): save_predictions(predict(root/'h.parquet', root/'model', bs=8), out)
    def scanned(out): scan_to(out, root/'data'/'dicom', workers=1, resume=True)
    return dict(scan=Job(scanned, load_headers, DataError), prepare=Job(prepared, store_module.Store, DataError),
        train=Job(partial(_train, root), load_model, ModelError), predict=Job(predicted, lambda o: o.stat(), FileNotFoundError))

def trial(job, out, want, seconds, kills, rng):
    "How many of `kills` left something corrupt, and whether the run after each third ended in the same bytes"
    corrupt,same = 0,True
    for k in range(kills):
        pid = forked(lambda: job.run(out))
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        corrupt += not job.whole(out, want)
        if k % 3 == 2 or k == kills-1:
            finish(lambda: job.run(out))
            same = same and bytes_of(out) == want and not [o for o in out.parent.iterdir() if o.name != out.name]
            for o in out.parent.iterdir(): (shutil.rmtree if o.is_dir() else os.unlink)(o)
    return corrupt, same

def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--kills', type=int, default=100)
    ap.add_argument('--seed', type=int, default=0)
    a = ap.parse_args(argv)
    rng,res = np.random.default_rng(a.seed),{}
    with tempfile.TemporaryDirectory() as d:
        root = Path(d)
        def make():
            write_phantom(root/'data', studies=4, size=64, seed=5)
            save_headers(scan(root/'data'/'dicom'), root/'h.parquet')
        finish(make)
        finish(lambda: _train(root, root/'model'))
        for name,job in jobs(root).items():
            ref,out = root/name/'whole'/'x',root/name/'killed'/'x'
            for o in (ref, out): o.parent.mkdir(parents=True)
            seconds = finish(lambda: job.run(ref))
            n = a.kills//4 + (a.kills%4 > list(jobs(root)).index(name))
            corrupt,same = trial(job, out, bytes_of(ref), 1.05*seconds, n, rng)
            res[name] = dict(kills=n, corrupt=corrupt, resumed_to_the_same_bytes=same)
            print(f'{name:8} {n:4} kills within {seconds:5.2f} s: {corrupt} corrupt, {"the same bytes" if same else "OTHER BYTES"} afterwards', flush=True)
    print(json.dumps(dict(bench='kills', kills=a.kills, seed=a.seed, corrupt=sum(o['corrupt'] for o in res.values()), same=all(o['resumed_to_the_same_bytes'] for o in res.values()), stages=res)))
    return res

if __name__ == '__main__': sys.exit(any(o['corrupt'] or not o['resumed_to_the_same_bytes'] for o in main().values()))
