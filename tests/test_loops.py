"The compiled loops say what torch's operations say; threads, forks, and a disk that can't be written to"
import os, pickle, subprocess, sys, time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from threading import Barrier
from unittest.mock import patch
import numba, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from rsna_ich.core import loops
from rsna_ich.data import store
from rsna_ich.dicom import batch_hu
from rsna_ich.vision import crop, hu, windowing
from rsna_ich.core.errors import DataError
from rsna_ich.core.loops import ThreadTeam, compiled_loop, run_in_parts
from rsna_ich.dicom.batch_hu import PixelCoding, area_mean, stored_to_hu
from rsna_ich.vision.hu import AIR, DENSEST_HU
from rsna_ich.vision.windowing import HistScale, RandomWindow, Window
from rsna_ich.vision.crop import CropHead
from rsna_ich.vision.chain import CTTransform
from rsna_ich.data.store import from_codes, hu_levels, to_codes

@contextmanager
def whole_batches():
    "Torch's operations in place of the loops"
    with ExitStack() as stack:
        for o in (batch_hu, crop, hu, store, windowing): stack.enter_context(patch.object(o, 'runs_as_loop', lambda _: False))
        yield

def both(f):
    with torch.no_grad():
        loop = f().clone()
        with whole_batches(): return loop, f().clone()

def head(h, w, seed, n=3):
    "Blobs of tissue and bone in air, with noise, [n,1,h,w] float32"
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 6, 6, generator=rng)*800 + torch.linspace(-600, 300, n)[:,None,None,None]
    return (torch.nn.functional.interpolate(coarse, (h, w), mode='bicubic') + 20*torch.randn(n, 1, h, w, generator=rng)).clamp(-3024, 32767)

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.sampled_from('int16 uint8 bool float16 float32 float64'.split()))
def test_means_over_areas(size, k, n, seed, dtype):
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 200, (n, size*k, size*k))).to(getattr(torch, dtype))
    torch.testing.assert_close(*both(lambda: area_mean(x, size)), rtol=0, atol=0)

int16s = st.integers(-32768, 32767)
codings = st.tuples(int16s, int16s, int16s, st.sampled_from([0, 32768]), st.sampled_from([1., .5, -1., 3., 1.1]), st.sampled_from([0., -1024., .25]),
    st.booleans(), st.sampled_from([(1, 0), (-2000, -2000), (-30000, -1500)]))

@settings(max_examples=100, deadline=None)
@given(st.lists(codings, min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_hu_of_any_coding(codings, size, k, seed):
    mask,flip,less,shift,slope,intercept,fix,padding = zip(*codings)
    low,high = np.array(padding, np.int32).T
    words = [np.array(o, np.int16) for o in (mask, flip, less)]
    c = PixelCoding(*words, np.array(shift, np.int32), np.array(slope), np.array(intercept), np.array(fix), low, high)
    px = torch.from_numpy(np.random.default_rng(seed).integers(-32768, 32768, (len(codings), 1, size*k, size*k)).astype(np.int16))
    torch.testing.assert_close(*both(lambda: stored_to_hu(px.clone(), c, size)), rtol=0, atol=0)

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.tuples(*[st.integers(1, 40)]*2), st.booleans(), st.sampled_from([Window, RandomWindow]), st.integers(0, 99))
def test_windows(n, shape, whole, kind, seed):
    x,win = head(*shape, seed, n).to(torch.int16 if whole else torch.float32),kind(['brain', (300, 10), 'subdural'], mean=[.4, .5, .6], std=[.2, .3, .4])
    def shaded():
        torch.manual_seed(seed)
        return win(x)
    torch.testing.assert_close(*both(shaded), rtol=0, atol=2e-5)

@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1000, 3000), min_size=2, max_size=60, unique=True), st.integers(0, 99))
def test_histogram_scale(bins, seed):
    x,scale = head(30, 40, seed).round(),HistScale(sorted(bins))
    torch.testing.assert_close(*both(lambda: scale(x)), rtol=0, atol=1e-6)

def test_a_nan_stays_one():
    x = torch.tensor([[[[float('nan'), 40., float('inf'), -float('inf')]]]])
    for got in both(lambda: Window(['brain'])(x)): torch.testing.assert_close(got.flatten(), torch.tensor([float('nan'), .5, 1., 0.]), equal_nan=True)

@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(64, 64), (128, 128), (192, 192), (100, 100), (90, 64), (64, 130)]), st.integers(0, 999))
def test_where_the_head_is(shape, seed):
    x,crop = head(*shape, seed),CropHead(32)
    assert torch.equal(*both(lambda: crop.mask(x)))
    torch.testing.assert_close(*both(lambda: crop.boxes(x)), rtol=0, atol=1e-4)

@settings(max_examples=80, deadline=None)
@given(st.tuples(*[st.integers(3, 70)]*2), st.integers(1, 50), st.tuples(*[st.floats(-40, 110)]*2), st.floats(1, 150),
    st.sampled_from([None, (0, 80), (-50., 500.)]), st.integers(0, 99))
def test_what_is_cut_out(shape, size, corner, side, within, seed):
    "Squares that reach beyond the picture or miss it too"
    x,crop = head(*shape, seed),CropHead(size, within=within)
    crop.boxes = lambda hu: torch.tensor([[*corner, corner[0]+side, corner[1]+side]]).expand(len(hu), 4)
    torch.testing.assert_close(*both(lambda: crop(x)), rtol=0, atol=1.)

@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(48, None), (None, True), (64, True), (32, dict(within=(0, 80)))]), st.sampled_from([64, 96, 128]), st.integers(0, 99))
def test_the_whole_chain(how, side, seed):
    chain,x = CTTransform(how[0], crop=how[1] or False, mean=.45, std=.22).eval(),head(side, side, seed)
    torch.testing.assert_close(*both(lambda: chain(x)), rtol=0, atol=.02)

@settings(deadline=None)
@given(st.lists(st.floats(-2000, 4000, width=32), min_size=1, max_size=50))
def test_codes(hu):
    levels = torch.from_numpy(hu_levels())
    x = torch.tensor(hu + levels.tolist() + ((levels[1:] + levels[:-1])/2).tolist() + [AIR, DENSEST_HU])
    codes = both(lambda: to_codes(x, levels))
    assert torch.equal(*codes)
    assert torch.equal(*both(lambda: from_codes(levels, codes[0].reshape(-1, 1))))

def test_codes_of_what_is_no_hu():
    x,close = torch.tensor([float('inf'), -float('inf'), float('nan'), 1e30, -1e30]),torch.arange(0, 2, .2)
    assert torch.equal(*both(lambda: to_codes(x, torch.from_numpy(hu_levels()))))
    assert torch.equal(*both(lambda: to_codes(torch.linspace(-1, 3, 99), close)))

def test_what_a_loop_would_read_beyond_is_refused():
    with pytest.raises(DataError, match='only square'): area_mean(torch.zeros(2, 4, 8), 4)
    good = PixelCoding(*np.zeros((3, 2), np.int16), np.zeros(2, np.int32), *np.ones((2, 2)), np.zeros(2, bool), *np.array([[1, 1], [0, 0]], np.int32))
    for px in (torch.zeros(3, 1, 4, 4), torch.zeros(2, 1, 4, 8), torch.zeros(2, 4, 4), torch.zeros(2, 1, 0, 0)):
        with pytest.raises(DataError, match='2 codings'): stored_to_hu(px.short(), good, 4)
    with pytest.raises(DataError, match='one batch'): stored_to_hu(torch.zeros(2, 1, 4, 4).short(), replace(good, fix=good.fix[:1]), 4)
    with pytest.raises(DataError, match='only square'): area_mean(torch.zeros(2, 0, 0), 4)
    with pytest.raises(IndexError): from_codes(torch.arange(10.), torch.tensor([200], dtype=torch.uint8))
    with pytest.raises(DataError, match='int16'): stored_to_hu(torch.zeros(2, 1, 4, 4), good, 4)
    with pytest.raises(IndexError): from_codes(torch.from_numpy(hu_levels()), torch.tensor([256], dtype=torch.int16))
    assert HistScale([-1e9, 0., 100.])(torch.full((1, 1, 1, 1), 50.)).item() == .75

def test_gradients_and_compiled_graphs_go_through_torch():
    x = head(64, 64, 0).requires_grad_()
    CTTransform(32, crop=True).eval()(x).sum().backward()
    assert x.grad.abs().sum() > 0
    step = CTTransform(32, crop=True).eval()
    with torch.no_grad(): torch.testing.assert_close(torch.compile(lambda o: step.steps.channels(o), backend='eager')(x), step.steps.channels(x), rtol=0, atol=1e-5)

@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same(n):
    x,chain,before = head(128, 128, 5, 21),CTTransform(48, crop=True).eval(),torch.get_num_threads()
    want = chain(x).clone()
    try:
        torch.set_num_threads(n)
        assert torch.equal(chain(x), want)
    finally: torch.set_num_threads(before)

def test_what_fails_in_a_thread_is_raised():
    def f(i): raise ValueError(f'{i}')
    with pytest.raises(ValueError): ThreadTeam(2).map(f, [1, 2])
    with pytest.raises(ValueError): run_in_parts(f, 64)

def test_a_pool_goes_on_in_a_pickle_and_after_a_fork():
    pool = ThreadTeam(2)
    assert pool.map(abs, [-1]) == pickle.loads(pickle.dumps(pool)).map(abs, [-1]) == [1]
    with get_context('fork').Pool(1) as p: assert p.apply_async(pool.map, (abs, [-2])).get(timeout=60) == [2]

def test_a_part_may_be_shared_out_again():
    done,both_run = [],Barrier(2)
    def part(i):
        both_run.wait(timeout=60)
        run_in_parts(lambda j: done.append(j), 16)
    with patch.object(loops, '_threads', ThreadTeam(2)), patch.object(torch, 'get_num_threads', lambda: 2): run_in_parts(part, 16)
    assert len(done) == 4

def test_all_is_done_when_something_is_raised():
    done = []
    def f(i):
        if not i: raise ValueError('no')
        time.sleep(.2)
        done.append(i)
    with pytest.raises(ValueError): ThreadTeam(2).map(f, [0, 1])
    assert done == [1]

def test_a_recorded_graph_holds_the_steps():
    traced = torch.jit.trace(Window(), head(8, 8, 0), check_trace=False)
    torch.testing.assert_close(traced(head(8, 8, 1)), Window()(head(8, 8, 1)), rtol=0, atol=1e-5)

@pytest.mark.parametrize('what', ['empty', 'full disk'])
def test_what_was_kept_is_damaged(what, tmp_path):
    (tmp_path/'mine.py').write_text('from rsna_ich.core.loops import compiled_loop\n@compiled_loop\ndef double(x): return 2*x\n')
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); ' if what == 'full disk' else ''
    env = {k:v for k,v in os.environ.items() if k != 'NUMBA_CACHE_DIR'} | dict(XDG_CACHE_HOME=str(tmp_path/'cache'))
    run = lambda code: subprocess.run([sys.executable, '-c', code+'import mine; print(mine.double(4))'], cwd=tmp_path, env=env, capture_output=True, text=True).stdout.strip()
    if what == 'empty':
        assert run('') == '8'
        kept = list((tmp_path/'cache').rglob('*.nbi'))
        assert kept and not list((tmp_path/'__pycache__').glob('*.nb[ic]'))
        for o in kept: o.write_bytes(b'')
    assert run(limit) == '8'

def test_a_fork_while_something_is_compiled():
    code = """import os, threading, time
from rsna_ich.core.loops import compiled_loop
from numba.core.compiler_lock import global_compiler_lock as lock
def hold():
    with lock: time.sleep(1)
threading.Thread(target=hold).start()
time.sleep(.3)
pid = os.fork()
if not pid: os._exit(compiled_loop(lambda x: 2*x)(21))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"""
    assert subprocess.run([sys.executable, '-c', code], timeout=120).returncode == 42

def test_nowhere_to_keep_what_was_compiled():
    kept = numba.njit
    def njit(f, cache=False, **kwargs):
        if cache: raise RuntimeError('cannot cache function: no locator available')
        return kept(f, **kwargs)
    with patch.object(loops, 'njit', njit): double = compiled_loop(lambda x: 2*x)
    assert double(3) == 6

def test_loops_run_uncompiled_for_a_debugger():
    code = 'from rsna_ich.vision import windowing as w; import torch; assert not hasattr(w._grey, "signatures"); print(w.Window("brain")(torch.full((1, 1, 2, 2), 40)).mean().item())'
    r = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(NUMBA_DISABLE_JIT='1'), capture_output=True, text=True)
    assert r.stdout.strip() == '0.5', r.stderr

def test_importing_compiles_nothing():
    code = 'import rsna_ich.dicom.reader, rsna_ich.data.store, rsna_ich.vision.chain, rsna_ich.vision.windowing as w; import sys; sys.exit(len(w._grey.signatures))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
