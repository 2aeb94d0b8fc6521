"The prepared store: resumable, whole or not there, stale ones noticed, the same answers as the files"
import json, os
import numpy as np, pytest, torch
from rsna_ich import store as store_module
from rsna_ich.core import LABELS, DataError
from rsna_ich.data import ICHDataLoaders, correct_prior, sampled_split, slice_table
from rsna_ich.headers import scan
from rsna_ich.infer import predict
from rsna_ich.labels import read_labels
from rsna_ich.learner import load_model, train_model
from rsna_ich.store import Store, prepare, read_slice
from rsna_ich.windows import CTTransform

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
        from_store = chain(torch.from_numpy(store.pixels[:])[:,None], fitted=True)
        assert (chain(x) - from_store).abs().max() <= .5/width + 1e-5

class Stop(Exception): "An interruption"

def test_an_interrupted_store_goes_on_to_the_same_bytes(headers, store, tmp_path, monkeypatch):
    fit,calls = store_module._fit_batch,[]
    def stops(*args):
        calls.append(1)
        if len(calls) == 70: raise Stop
        return fit(*args)
    monkeypatch.setattr(store_module, '_fit_batch', stops)
    with pytest.raises(Stop): prepare(headers, tmp_path/'s', size=32, bs=2)
    assert not (tmp_path/'s'/'store.json').exists()
    with pytest.raises(DataError, match='not a finished one'): Store(tmp_path/'s')
    calls.clear()
    monkeypatch.setattr(store_module, '_fit_batch', lambda *a: calls.append(1) or fit(*a))
    again = prepare(headers, tmp_path/'s', size=32, bs=2)
    assert len(calls) == -(-len(headers)//2) - 64
    assert (tmp_path/'s'/'pixels.npy').read_bytes() == (store.path/'pixels.npy').read_bytes()
    assert again.index.equals(store.index) and not (tmp_path/'s'/'progress.json').exists()

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
    assert s.index.row.isna().tolist() == [False, False, True, False, False, False] and 'not a DICOM' in s.index.error[2]

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
    with learn.no_bar(): p = correct_prior(learn.get_preds()[0].numpy(), learn.negatives_kept)
    items = learn.dls.valid_ds.items
    got = predict(list(items.file), load_model(tmp_path/'m'))
    assert np.abs(got[list(LABELS)].to_numpy(float) - p).max() < .02

def test_sampling_drops_negatives_of_training_patients_alone(table):
    from rsna_ich.data import PatientSplitter
    split = PatientSplitter(3)(table)
    (train,valid),kept = sampled_split(table, split, 2.)
    y = table['any'].to_numpy()
    assert valid == split[1] and set(train) <= set(split[0])
    assert y[train].sum() == y[split[0]].sum() and (y[train] == 0).sum() == min(2*y[train].sum(), (y[split[0]] == 0).sum())
    assert np.isclose(kept, (y[train] == 0).sum()/(y[split[0]] == 0).sum())
