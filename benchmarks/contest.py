"""What the benchmarks share: contestants that take turns, each in a process of its own; medians, a table, and a last line of JSON

A contestant is a function that gets ready (imports, lists, buffers) and returns `run`, which does the job once, and `look`, which makes something
small of `run`'s result, by which the answers are compared. Its docstring is its line in the table."""
import argparse, json, os, platform, re, sys, time, warnings
from collections import deque
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import SIGKILL
from statistics import median
from subprocess import Popen, TimeoutExpired

SHARED = Path(os.environ.get('RSNA_ICH_DATA', Path(__file__).resolve().parents[2]/'shared'/'data'))/'rsna'

def slices(folder, n, side=512):
    "The header table of `n` plain slices of one side under `folder`, the real ones when None; over again where they are fewer"
    import pandas as pd
    from rsna_ich.dicom.hounsfield import broken_coding
    from rsna_ich.dicom.scanning import scan
    df = scan(folder or SHARED/'dicom', workers=1)
    odd = broken_coding(df.bits_stored, df.pixel_representation, df.intercept)
    good = df[df.error.isna() & df.pixel_offset.notna() & (df.rows == side) & (df.cols == side) & ~odd]
    if not len(good): sys.exit(f'{folder}: no uncompressed slices of {side} pixels; name another folder with --files')
    res = pd.concat([good]*-(-n//len(good)), ignore_index=True).head(n)
    res.attrs = df.attrs
    return res

def peak_mib():
    "The most memory that this process has had, in MiB"
    with open('/proc/self/status') as f: return next(int(l.split()[1])/1024 for l in f if l.startswith('VmHWM'))

def timed(run, seconds):
    "The result of `run`, and the seconds of a call, from as many calls as fit into `seconds`, one at least"
    start,k = time.perf_counter(),0
    while not k or time.perf_counter()-start < seconds:
        res = None # or two results would need memory
        res,k = run(),k+1
    return res, (time.perf_counter()-start)/k

def serve(pipe):
    "A contestant's process: a turn for each request"
    warnings.simplefilter('ignore') # a line for each file would slow pydicom down
    module,name,args,warm,seconds = pipe.recv()
    try:
        run,look = getattr(import_module(module), name)(*args)
        while pipe.recv():
            if warm: run()
            res,t = timed(run, seconds)
            pipe.send((t, look(res), peak_mib()))
            res,warm = None,False
    except ModuleNotFoundError as e: pipe.send(f'not installed ({e.name})')
    except Exception as e: pipe.send(f'failed, {type(e).__name__}: {" ".join(str(e).split())[:120]}')

class Contestant:
    "One row of the table"
    def __init__(self, name, make, args, fresh, seconds, timeout):
        self.name,self.key,self.what,self.fresh,self.timeout = name,re.match('[^ ,]+', name)[0],make.__doc__,fresh,timeout
        self.make,self.args,self.seconds,self.process = make,args,seconds,None
        self.times,self.seen,self.peak,self.why = [],None,0,None
    def start(self):
        self.pipe,theirs = Pipe()
        self.process = Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdout=sys.stderr, start_new_session=True)
        theirs.close()
        self.pipe.send((Path(sys.argv[0]).stem, self.make.__name__, self.args, not self.fresh, self.seconds))
    def stop(self):
        if self.process is None: return
        with suppress(OSError): self.pipe.send(False)
        with suppress(TimeoutExpired): self.process.wait(10)
        with suppress(ProcessLookupError): os.killpg(self.process.pid, SIGKILL) # and what it has started
        self.process.wait()
        self.process = None
    def turn(self):
        "Take a turn, in a new process when `fresh`"
        if self.why: return
        if self.process is None: self.start()
        try:
            self.pipe.send(True)
            res = self.pipe.recv() if self.pipe.poll(self.timeout) else f'no answer in {self.timeout} s'
        except (OSError, EOFError): res = 'its process died'
        if isinstance(res, str): self.why = res
        else:
            t,self.seen,peak = res
            self.times.append(t)
            self.peak = max(self.peak, peak)
        if self.fresh or self.why: self.stop()

def contest(
    makers:dict, # {name: function, or (function, arguments)}; ours first; a peer's several ways share the first word of the name
    *args, # for all of them, before their own
    rounds=5, seconds=1., # turns of each, and how long a turn lasts at least
    same=None, # whether two results of `look` tell of the same answer; not asked where one is None
    fresh=False, # a new process for each turn, not warmed up?
    timeout=600, # seconds a turn may last
)->list: # of `Contestant`
    "Let the contestants take turns"
    row = lambda k,m: Contestant(k, *((m[0], (*args, *m[1:])) if isinstance(m, tuple) else (m, args)), fresh, seconds, timeout)
    rows = [row(k, m) for k,m in makers.items()]
    queue = deque(rows)
    try:
        for _ in range(rounds):
            for r in queue: r.turn()
            queue.rotate(-1) # nobody always follows the same one
    finally:
        for r in rows: r.stop()
    if rows[0].why: sys.exit(f'{rows[0].name}: {rows[0].why}')
    for r in rows[1:]:
        if same and not r.why and r.seen is not None and not same(rows[0].seen, r.seen): r.why = 'another result than ours'
    return rows

def ratio(ours, row):
    "How many times as fast as `row` ours is: the median over the rounds"
    return median(b/a for a,b in zip(ours.times, row.times))

def ratios(rows):
    "By the first word of their names, ours against each contestant at its best"
    res = {}
    for r in rows[1:]:
        if not r.why and r.key != rows[0].key: res[r.key] = min(res.get(r.key, 1e9), ratio(rows[0], r))
    return {k:float(f'{v:.3g}') for k,v in res.items()}

def _figure(n, seconds, unit): return n/seconds if unit.endswith('/s') else seconds

def table(rows, n, unit):
    "Print a line for each contestant"
    print(f"{'':26} {unit:>11} {'lowest':>9} {'highest':>9} {'ours is':>9} {'peak MiB':>9}")
    for r in rows:
        if r.why: print(f'{r.name:26} {r.why}')
        else:
            vals = sorted(_figure(n, t, unit) for t in r.times)
            mid,lo,hi = [f'{v:,.4g}' if v < 1000 else f'{v:,.0f}' for v in (median(vals), vals[0], vals[-1])]
            times = '' if r is rows[0] else f'{ratio(rows[0], r):.3g}x'
            print(f'{r.name:26} {mid:>11} {lo:>9} {hi:>9} {times:>9} {r.peak:9,.0f}  {r.what}')

def _version(package):
    try: return version(package)
    except PackageNotFoundError: return None

def conditions(*packages):
    "What figures depend on"
    found = {p:v for p in ('torch', *packages) if (v := _version(p))}
    return dict(cores=os.cpu_count(), machine=platform.machine(), python=platform.python_version(), **found, page_cache='warm')

def last_line(bench, ours, unit, n, rows=(), **more):
    "The line for programs"
    print(json.dumps(dict(bench=bench, ratios=ratios(rows), ours=float(f'{ours:.5g}'), unit=unit, n=n) | more))

def report(bench, rows, n, unit, packages=(), **more):
    "Table and last line of a contest over `n` things"
    table(rows, n, unit)
    last_line(bench, _figure(n, median(rows[0].times), unit), unit, n, rows, rounds=len(rows[0].times), conditions=conditions(*packages), **more)

def arguments(doc, rounds=5, seconds=1.):
    "A parser with what all contests take"
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--rounds', type=int, default=rounds, help='turns of each contestant')
    ap.add_argument('--seconds', type=float, default=seconds, help='how long a turn lasts at least')
    return ap

if __name__ == '__main__': serve(Connection(int(sys.argv[1])))
