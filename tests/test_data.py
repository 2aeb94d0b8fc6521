"The slice table, its loaders and batches"
import numpy as np, pytest, torch
from fastai.data.all import DataBlock, Transform
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.files import get_dicom_files
from rsna_ich.dicom.scanning import scan, scan_paths
from rsna_ich.dicom.batch_hu import read_slice
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.data.splits import PatientSplitter
from rsna_ich.data.blocks import LabelBlock, get_file, get_labels
from rsna_ich.data.loaders import CTBlock, ICHDataLoaders, balanced_weights

@pytest.fixture(scope='module')
def table(heads): return slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))

def test_labels_that_belong_elsewhere(heads):
    labels = read_labels(heads/'labels.csv')
    with pytest.raises(DataError, match='no file has a label'): slice_table(scan(heads/'dicom'), labels.assign(sop=labels.sop + 'x'))

def test_two_files_of_one_image(heads, tmp_path):
    f = next((heads/'dicom').iterdir())
    for name in 'ab': (tmp_path/name).write_bytes(f.read_bytes())
    with pytest.raises(DataError, match='1 images have more than one file'): slice_table(scan(tmp_path))

def test_only_broken_files(tmp_path):
    (tmp_path/'a').write_text('no')
    with pytest.raises(DataError, match='none of the 1 files can be used'): slice_table(scan(tmp_path))

def test_what_is_left_out_is_counted(heads):
    headers,labels = scan(heads/'dicom'),read_labels(heads/'labels.csv')
    headers.loc[0, 'error'] = 'broken'
    df = slice_table(headers, labels[5:])
    assert df.attrs['errors'] == 1 and len(df) + df.attrs['unlabelled'] + 1 == len(headers)

def test_balanced_weights(table):
    w = balanced_weights(table, .5)
    assert np.isclose(w.sum(), 1) and np.isclose(w[table['any'] == 1].sum(), .5)
    with pytest.raises(DataError): balanced_weights(table[table['any'] == 0])

def test_unknown_labels_reach_the_batch_as_nan(table):
    df = table.copy()
    df['epidural'] = np.float32('nan')
    y = ICHDataLoaders.from_table(df, size=32, n_folds=3, bs=8).valid.one_batch()[1]
    assert torch.isnan(y[:,1]).all() and not torch.isnan(y[:,0]).any()

@pytest.mark.parametrize('shape', [(100, 60), (60, 100), (64, 64), (33, 33)])
def test_odd_sizes_are_squared_with_air(tmp_path, shape):
    from rsna_ich.phantom.files import write_dicom
    write_dicom(tmp_path/'a', np.full(shape, 40, np.int16))
    x = read_slice(tmp_path/'a', 32)
    assert x.shape == (1, 32, 32) and x[0, 16, 16] == 40
    if shape[0] != shape[1]: assert x.min() == -1000

def batches(dl): return [tuple(o.as_subclass(torch.Tensor).clone() for o in b) for b in dl]
def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for p,q in zip(a, b) for x,y in zip(p, q))

def test_batches_are_the_slices_of_the_table(table):
    "What `from_table` and a `DataBlock` give by the batch is what items give one by one"
    class Nothing(Transform): "An item transform, so that items are needed"
    chain = dict(windows=['brain'], size=32)
    kwargs = dict(get_x=get_file, get_y=get_labels, splitter=PatientSplitter(3))
    block = DataBlock((CTBlock(32, chain), LabelBlock), **kwargs).dataloaders(table, bs=16)
    items = DataBlock((CTBlock(32, chain), LabelBlock), item_tfms=Nothing(), **kwargs).dataloaders(table, bs=16)
    assert block.valid.fetch is not None and items.valid.fetch is None
    ours = ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16, chain=chain)
    assert same(batches(block.valid), batches(items.valid)) and same(batches(ours.valid), batches(items.valid))

def test_a_block_of_plain_paths(heads, table):
    "Files in a list, labels from a function, no table anywhere"
    known = {str(f):y for f,y in zip(table.file, table[list(LABELS)].to_numpy())}
    block = DataBlock((CTBlock(32, dict(size=32)), LabelBlock), get_items=get_dicom_files, get_y=lambda p: known.get(str(p), [np.nan]*6),
        splitter=lambda items: (list(range(40)), list(range(40, 70))))
    dls = block.dataloaders(heads/'dicom', bs=10)
    assert dls.valid.fetch is not None
    y = torch.cat([y for _,y in batches(dls.valid)])
    want = [known.get(str(p), [np.nan]*6) for p in get_dicom_files(heads/'dicom')[40:70]]
    np.testing.assert_array_equal(y.numpy(), np.array(want, np.float32))
    x, = batches(dls.test_dl(get_dicom_files(heads/'dicom')[40:50]))[0][:1]
    assert torch.allclose(x, batches(dls.valid)[0][0])

@pytest.mark.parametrize('kwargs', [{}, dict(balance=.5), dict(by='study')])
def test_one_seed_one_order_with_any_number_of_workers(table, kwargs):
    from fastai.torch_core import set_seed
    runs = []
    for workers in (0, 0, 2):
        set_seed(3, reproducible=True)
        runs.append(batches(ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16, chain=dict(size=32), num_workers=workers, **kwargs).train))
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    set_seed(4, reproducible=True)
    assert not same(runs[0], batches(ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16, chain=dict(size=32), **kwargs).train))

def test_studies_stay_together(table):
    dl = ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16, by='study').train
    part,order = dl.dataset.items,dl.get_idxs()
    assert sorted(order) == list(range(len(part)))
    studies = part.study.iloc[order].tolist()
    assert len([1 for a,b in zip(studies, studies[1:]) if a != b]) == part.study.nunique() - 1
    assert all(part.position.iloc[[i for i in order if part.study[i] == s]].is_monotonic_increasing for s in set(studies))
    assert dl.get_idxs() != order

def test_one_bad_file_costs_one_slice(table, heads, tmp_path):
    for p in table.path: (tmp_path/p).write_bytes((heads/'dicom'/p).read_bytes())
    df = table.copy()
    df.attrs = dict(table.attrs, root=str(tmp_path))
    (tmp_path/df.path[3]).write_bytes(b'gone')
    dls = ICHDataLoaders.from_table(df, size=32, bs=16, splitter=lambda df: (list(range(64)), list(range(64, 80))))
    with pytest.warns(UserWarning, match='left out of its batch'): y = torch.cat([y for _,y in batches(dls.train)])
    assert len(y) == 64 and y.isnan().all(1).sum() == 1

def test_what_fastai_users_try(table, store_table):
    "`test_dl`, `new` and weights that stay, on loaders from files and from a store"
    from fastai.vision.all import Normalize
    kwargs = dict(n_folds=3, bs=16, balance=.5)
    for dls in (ICHDataLoaders.from_table(table, size=64, chain=dict(size=32), **kwargs), ICHDataLoaders.from_store(*store_table, **kwargs)):
        assert dls.train.new().wgts is dls.train.wgts and dls.train.new(bs=8).fetch is not None
        for items in (list(table.file[:20]), table[:20]):
            x,y = batches(dls.test_dl(items))[0]
            assert x.shape == (16, 3, 32, 32) and y.isnan().all()
    block = DataBlock((CTBlock(32), LabelBlock), get_x=get_file, get_y=get_labels, splitter=PatientSplitter(3), batch_tfms=Normalize())
    assert abs(batches(block.dataloaders(table, bs=64).valid)[0][0].mean()) < 1

def test_files_of_a_block_are_scanned_once(heads, monkeypatch):
    from rsna_ich.data import blocks
    scans = []
    monkeypatch.setattr(blocks, 'scan_paths', lambda *a: scans.append(1) or scan_paths(*a))
    block = DataBlock((CTBlock(32, dict(size=32)), LabelBlock), get_items=get_dicom_files, get_y=lambda p: [0.]*6,
        splitter=lambda items: (list(range(40)), list(range(40, 60))))
    dls = block.dataloaders(heads/'dicom', bs=10, num_workers=2)
    for _ in range(2): list(dls.train), list(dls.valid), list(dls.valid.new())
    assert len(scans) == 2

@pytest.fixture(scope='module')
def store_table(heads, tmp_path_factory):
    from rsna_ich.data.store import prepare
    store = prepare(scan(heads/'dicom'), tmp_path_factory.mktemp('st')/'store', size=32)
    return store, slice_table(store.index, read_labels(heads/'labels.csv'))

def test_no_batch_outlives_its_turn(store_table):
    "With the garbage collector off, an epoch holds no more batches at a time than it needs"
    import gc
    dl = ICHDataLoaders.from_store(*store_table, n_folds=3, bs=4).valid
    gc.collect()
    gc.disable()
    try:
        for _ in dl: pass
        assert len(dl.dataset.source.buffers.kept) <= 3 < len(dl)
    finally: gc.enable()
