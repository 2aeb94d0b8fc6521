"Read mutants in a process that may die, and count what became of each"
import io, json, mmap, os, random, resource, subprocess, sys, tempfile, time, warnings
from collections import Counter
from pathlib import Path
import numpy as np, pydicom
from rsna_ich.dicom.decoder import decoder
from rsna_ich.dicom.door import read_dicom, read_hu
from rsna_ich.core.errors import DicomError
from tests.fuzz.mutate import mutate
from tests.fuzz.seeds import CANARY, make_seeds

HANG = 20 # seconds a file
OUTCOMES = ('same', 'refused', 'flagged', 'pixels', 'plausible', 'silent', 'escape', 'leak', 'crash', 'hang')
CODES = {k:i+1 for i,k in enumerate(OUTCOMES)} # 0: not tried yet

def mutant(seeds, syntax, seed, i):
    "Mutant `i` of a run: the same one whenever it is asked for"
    rng = random.Random(f'{seed} {syntax} {i}')
    src = rng.choice(seeds)
    return src, mutate(src, rng)

_FIELDS = 'RescaleSlope RescaleIntercept BitsAllocated BitsStored HighBit PixelRepresentation Rows Columns NumberOfFrames'.split()

def _fields(data):
    "What pydicom reads of the fields that HU depend on, as text"
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        inner = {o.keyword:o.value for o in ds.iterall() if o.keyword in _FIELDS} # those in functional groups as well
        return {k:str(ds.get(k, inner.get(k))).strip() for k in _FIELDS}

def plausible(src, data, hu):
    "The one element whose new value explains `hu`, so that the file is a good file of another slice; None when there is no such"
    try: old,new = _fields(src.data),_fields(data)
    except Exception: return None
    changed = [k for k in _FIELDS if old[k] != new[k]]
    if changed != ['RescaleIntercept']: return None
    words = src.words.astype(np.float64)*float(new['RescaleSlope']) + float(new['RescaleIntercept'])
    return changed[0] if np.array_equal(words, hu) else None

def _texts(e):
    "All that a traceback of `e` would print of what was said"
    while e:
        yield str(e)
        e = e.__cause__ or (None if e.__suppress_context__ else e.__context__)

def outcome(src, m):
    "What becomes of one mutant, and a word on it; a warning is an escape too"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        res = _outcome(src, m)
    return ('escape', str(said[0].message)) if said else res

def _outcome(src, m):
    try:
        ds = read_dicom(m.data)
        hu = read_hu(ds)
    except DicomError as e: return 'leak' if any(CANARY in o or '19010203' in o for o in _texts(e)) else 'refused', str(e)
    except BaseException as e: return 'escape', repr(e)
    if np.array_equal(hu, src.hu): return 'same', ''
    if m.pixels: return 'pixels', ','.join(ds.flags)
    if ds.flags: return 'flagged', ','.join(ds.flags)
    field = plausible(src, m.data, hu)
    return ('plausible', field) if field else ('silent', m.kind)

def work(syntax, seed, first, codes, notes):
    "Try the mutants from `first` on; `codes` takes the outcomes, one byte each, and `notes` what there is to say"
    seeds = make_seeds(syntax)
    with open(codes, 'r+b') as f, open(notes, 'a', encoding='utf-8') as out, mmap.mmap(f.fileno(), 0) as done:
        parent = os.getppid()
        for i in range(first, len(done)):
            if os.getppid() != parent: return
            src,m = mutant(seeds, syntax, seed, i)
            kind,note = outcome(src, m)
            if kind in ('plausible', 'silent', 'escape', 'leak'): print(json.dumps([i, kind, src.name, m.kind, note]), file=out, flush=True)
            done[i] = CODES[kind]
    decoder.stop()
    print(json.dumps([resource.getrusage(o).ru_maxrss for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]))

def _watch(proc, done, state):
    "Wait for `proc`; kill it when one mutant takes too long. Returns whether it did"
    while proc.poll() is None:
        time.sleep(.2)
        at = done.find(b'\0')
        if at != state[0]: state[:2] = at, time.monotonic()
        # the first mutant of a process also waits for its seeds
        elif time.monotonic() - state[1] > HANG + 40*(at == state[2]):
            proc.kill()
            proc.wait()
            return True
    return False

def campaign(syntax, mutants, seed):
    "All mutants of one syntax: counts by outcome, memory, time"
    with tempfile.TemporaryDirectory() as d:
        codes,notes = Path(d)/'codes', Path(d)/'notes'
        codes.write_bytes(bytes(mutants))
        notes.touch()
        start,peaks = time.monotonic(),[[0, 0]]
        with open(codes, 'r+b') as f, mmap.mmap(f.fileno(), 0) as done:
            while (first := done.find(b'\0')) >= 0:
                args = ['--work', syntax, '--seed', str(seed), '--first', str(first), '--codes', codes, '--notes', notes]
                proc = subprocess.Popen([sys.executable, '-m', 'tests.fuzz', *args], stdout=subprocess.PIPE, text=True)
                hung = _watch(proc, done, [first, time.monotonic(), first])
                if proc.returncode == 0: peaks.append(json.loads(proc.stdout.read()))
                elif (at := done.find(b'\0')) >= 0: done[at] = CODES['hang' if hung else 'crash']
            counts = Counter(done[:])
        said = [json.loads(o) for o in notes.read_text(encoding='utf-8').splitlines()]
    res = dict(syntax=syntax, mutants=mutants) | {k:counts[v] for k,v in CODES.items()}
    parent,decoder = (max(o)/1024 for o in zip(*peaks))
    res |= dict(plausible_fields=dict(Counter(o[4] for o in said if o[1] == 'plausible')), parent_mb=parent, decoder_mb=decoder)
    return res | dict(per_second=mutants/(time.monotonic()-start), notes=[o for o in said if o[1] != 'plausible'][:20])
