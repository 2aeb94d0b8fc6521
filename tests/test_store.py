"The prepared store: resumable, whole or not there, stale ones noticed, the same answers as the files"
import json, os, pickle, subprocess, sys, time
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from rsna_ich.data import store as store_module
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.core.windows import ct_windows
from rsna_ich.dicom.header_files import save_headers
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.batch_hu import read_slice
from rsna_ich.vision.chain import CTTransform
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import sampled_split, slice_table
from rsna_ich.data.store import Store, from_codes, hu_levels, prepare, to_codes
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.answer.inference import predict

@pytest.fixture(scope='module')
def headers(heads): return scan(heads/'dicom')

@pytest.fixture(scope='module')
def store(headers, tmp_path_factory): return prepare(headers, tmp_path_factory.mktemp('s')/'store', size=32)

def test_windows_cut_from_the_store_are_those_of_the_files(headers, store):
    "Half a Hounsfield unit of rounding is all that is lost"
    root = headers.attrs['root']
    x = torch.stack([read_slice(f'{root}/{p}', 64) for p in headers.path])
    fitted = CTTransform(size=32, crop=True).steps[:2](x)[:,0].numpy()
    assert np.abs(fitted - store.pixels[:]).max() <= .5
    for name,width in (('brain', 80), ('stroke', 8)):
        chain = CTTransform(size=32, crop=True, windows=[name]).eval()
        from_store = chain(torch.from_numpy(store.pixels[:].copy())[:,None], fitted=True)
        assert (chain(x) - from_store).abs().max() <= .5/width + 1e-5

def test_a_uint8_store_keeps_its_promise(headers, store, tmp_path):
    "Half a unit in the brain's densities, and a fiftieth of every window's width but the narrowest"
    small = prepare(headers, tmp_path/'s', size=32, dtype='uint8')
    assert small.pixels.dtype == np.uint8 and small.settings['fingerprint'] != store.settings['fingerprint']
    hu = from_codes(small.levels, torch.from_numpy(small.pixels[:].copy()))
    off = np.abs(hu.numpy() - store.pixels[:])
    assert off[(store.pixels[:] > 0) & (store.pixels[:] < 100)].max() <= 1 # half a unit each
    for name,w in ct_windows.items():
        seen = np.abs(store.pixels[:] - w.level) <= w.width/2
        if seen.any() and name != 'stroke': assert off[seen].max() <= .02*w.width + .5

@settings(max_examples=200, deadline=None)
@given(st.floats(-1000, 3071))
def test_the_nearest_level_is_taken(hu):
    levels = torch.from_numpy(hu_levels())
    got = from_codes(levels, to_codes(torch.tensor([hu]), levels)).item()
    assert abs(got - hu) <= (levels - hu).abs().min().item() + 1e-3
    assert abs(got - hu) <= (.5 if 0 <= hu <= 100 else 2 if -150 <= hu <= 272 else 35) + 1e-3

class Stop(Exception): "An interruption"

@pytest.mark.parametrize('dtype', ['int16', 'uint8'])
def test_an_interrupted_store_goes_on_to_the_same_bytes(headers, tmp_path, monkeypatch, dtype):
    fit,calls = store_module.fit_batch,[]
    def stops(*args):
        calls.append(1)
        if len(calls) == 40: raise Stop
        return fit(*args)
    whole = prepare(headers, tmp_path/'whole', size=32, bs=2, dtype=dtype)
    monkeypatch.setattr(store_module, 'fit_batch', stops)
    with pytest.raises(Stop): prepare(headers, tmp_path/'s', size=32, bs=2, dtype=dtype)
    assert not (tmp_path/'s'/'store.json').exists()
    with pytest.raises(DataError, match='not a finished one'): Store(tmp_path/'s')
    calls.clear()
    monkeypatch.setattr(store_module, 'fit_batch', lambda *a: calls.append(1) or fit(*a))
    again = prepare(headers, tmp_path/'s', size=32, bs=2, dtype=dtype)
    assert len(calls) == -(-len(headers)//2) - 32, 'two notes of 16 batches were made'
    for o in ('pixels.npy', 'index.parquet', 'store.json'): assert (tmp_path/'s'/o).read_bytes() == (whole.path/o).read_bytes(), o
    assert again.index.equals(whole.index) and sorted(o.name for o in again.path.iterdir()) == ['index.parquet', 'pixels.npy', 'store.json']

def test_killed_at_any_moment(headers, tmp_path):
    "`kill -9` at random moments, and the run after the last goes on to the same bytes"
    save_headers(headers, tmp_path/'h.parquet')
    run = "import sys; from rsna_ich.dicom.header_files import load_headers; from rsna_ich.data import store; store.BATCHES_BETWEEN_NOTES=1; store.prepare(load_headers(sys.argv[1]), sys.argv[2], size=32, bs=2)"
    for wait in (.05, .2, .4):
        p = subprocess.Popen([sys.executable, '-c', run, tmp_path/'h.parquet', tmp_path/'s'])
        for _ in range(600):
            if (tmp_path/'s'/'progress.json').exists() or p.poll() is not None: break
            time.sleep(.05)
        time.sleep(wait)
        p.kill()
        p.wait()
    prepare(headers, tmp_path/'s', size=32, bs=2)
    prepare(headers, tmp_path/'whole', size=32, bs=2)
    for o in ('pixels.npy', 'index.parquet', 'store.json'): assert (tmp_path/'s'/o).read_bytes() == (tmp_path/'whole'/o).read_bytes(), o

def test_a_stale_store_is_noticed(headers, tmp_path):
    prepare(headers[:5], tmp_path/'s', size=32)
    prepare(headers[:5], tmp_path/'s', size=32)
    for df,size in ((headers[:5], 48), (headers[:6], 32)):
        with pytest.raises(DataError, match='other settings or from other files'): prepare(df, tmp_path/'s', size=size)
    os.utime(f"{headers.attrs['root']}/{headers.path[0]}")
    with pytest.raises(DataError, match='other settings or from other files'): prepare(headers[:5], tmp_path/'s', size=32)

def test_a_file_that_fails_costs_one_row(headers, heads, tmp_path):
    for p in headers.path[:6]: (tmp_path/p).write_bytes((heads/'dicom'/p).read_bytes())
    df = scan(tmp_path)
    (tmp_path/df.path[2]).write_bytes(b'gone')
    s = prepare(df, tmp_path/'s', size=32)
    assert s.index.row.isna().tolist() == [False, False, True, False, False, False] and 'changed since it was scanned' in s.index.error[2]

def test_a_damaged_store_is_said(store, tmp_path):
    out = tmp_path/'s'
    out.mkdir()
    for o in store.path.iterdir(): (out/o.name).write_bytes(o.read_bytes())
    (out/'store.json').write_text(json.dumps(store.settings | dict(slices=3)))
    with pytest.raises(DataError, match='damaged'): Store(out)
    (out/'pixels.npy').write_bytes(b'no array')
    with pytest.raises(DataError, match='damaged'): Store(out)

@pytest.fixture(scope='module')
def table(store, heads): return slice_table(store.index, read_labels(heads/'labels.csv'))

def test_batches_hold_what_the_table_says(store, table):
    dls = ICHDataLoaders.from_store(store, table, n_folds=3, bs=7, chain=dict(windows=['brain']))
    x,y = (torch.cat(o) for o in zip(*dls.valid))
    items = dls.valid_ds.items
    assert np.array_equal(y.numpy(), items[list(LABELS)].to_numpy(np.float32))
    want = CTTransform(size=32, windows=['brain'])(torch.from_numpy(store.pixels[items.row.to_numpy(int)])[:,None], fitted=True)
    assert torch.allclose(torch.as_tensor(x), want)

@pytest.mark.parametrize('workers', [0, 2])
def test_workers_change_nothing(store, table, workers):
    dls = ICHDataLoaders.from_store(store, table, n_folds=3, bs=7, num_workers=workers)
    a = ICHDataLoaders.from_store(store, table, n_folds=3, bs=7)
    assert all(torch.equal(p[0], q[0]) for p,q in zip(dls.valid, a.valid))

def test_a_model_from_the_store_answers_for_files(store, table, heads, tmp_path):
    "Validation figures from the store and predictions from the files agree, sampled negatives included"
    learn = train_model(table, tmp_path/'m', 'mobilenetv3_small_050', epochs=1, lr=3e-3, pretrained=False, bs=16, n_folds=3, store=store, size=32, negatives=1.)
    assert 0 < learn.negatives_kept < 1
    with learn.no_bar(): p = learn.answer(learn.get_preds()[0].numpy())
    items = learn.dls.valid_ds.items
    got = predict(list(items.file), load_model(tmp_path/'m'))
    assert np.abs(got[list(LABELS)].to_numpy(float) - p).max() < .02

def test_sampling_drops_negatives_of_training_patients_alone(table):
    from rsna_ich.data.splits import PatientSplitter
    split = PatientSplitter(3)(table)
    (train,valid),kept = sampled_split(table, split, 2.)
    y = table['any'].to_numpy()
    assert valid == split[1] and set(train) <= set(split[0])
    assert y[train].sum() == y[split[0]].sum() and (y[train] == 0).sum() == min(2*y[train].sum(), (y[split[0]] == 0).sum())
    assert np.isclose(kept, (y[train] == 0).sum()/(y[split[0]] == 0).sum())

def test_another_store_begun_in_between_is_not_mixed_in(headers, tmp_path, monkeypatch):
    "A, stopped; B in its place, stopped before its first note; A again"
    fit,calls = store_module.fit_batch,[]
    def stops(*args):
        calls.append(1)
        if len(calls) == calls_until: raise Stop
        return fit(*args)
    monkeypatch.setattr(store_module, 'fit_batch', stops)
    for kwargs,calls_until in ((dict(crop=True), 40), (dict(crop=False), 10)):
        calls.clear()
        with pytest.raises(Stop): prepare(headers, tmp_path/'s', size=32, bs=2, **kwargs)
    monkeypatch.undo()
    again,whole = prepare(headers, tmp_path/'s', size=32, bs=2),prepare(headers, tmp_path/'w', size=32)
    assert np.array_equal(again.pixels[:], whole.pixels[:])

def test_a_table_that_says_otherwise_is_another_source(headers, tmp_path):
    prepare(headers[:9], tmp_path/'s', size=32)
    for change in (dict(intercept=headers.intercept[:9]-24), dict(error=pd.array(['bad'] + [None]*8, 'string'))):
        df = headers[:9].assign(**change)
        df.attrs = headers.attrs
        with pytest.raises(DataError, match='other settings or from other files'): prepare(df, tmp_path/'s', size=32)

def test_stopped_just_before_the_end(headers, tmp_path, monkeypatch):
    whole,replace_ = prepare(headers, tmp_path/'w', size=32),os.replace
    def stops(a, b):
        replace_(a, b)
        if str(b).endswith('pixels.npy'): raise Stop
    monkeypatch.setattr(os, 'replace', stops)
    with pytest.raises(Stop): prepare(headers, tmp_path/'s', size=32)
    monkeypatch.undo()
    monkeypatch.setattr(store_module, 'fit_batch', None)
    assert (prepare(headers, tmp_path/'s', size=32).path/'pixels.npy').read_bytes() == (whole.path/'pixels.npy').read_bytes()

def test_a_store_travels_as_its_path(store): assert len(pickle.dumps(store)) < 1000
