"The batch reader: HU as `dicom` has them, whatever the coding; every failure in its place"
import os, pickle, threading
import numpy as np, pandas as pd, pydicom, pytest, torch
from hypothesis import given, settings, strategies as st
from rsna_ich.core.errors import DataError, DicomError
from rsna_ich.core.buffers import BufferPool
from rsna_ich.dicom.hounsfield import broken_coding, to_hu
from rsna_ich.dicom.door import read_dicom, read_hu
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.batch_hu import PixelCoding, area_mean, read_slice, stored_to_hu
from rsna_ich.dicom.reader import SliceReader, changed_pixels
from rsna_ich.phantom.files import write_dicom
from tests.damage import damage

codings = st.tuples(st.integers(2, 16), st.integers(0, 1), st.sampled_from([1., 1., 1., .5, 2., -1., 1.1, .3, .999]),
    st.sampled_from([-1024, -1000, 0, 1, 7, -8192]))

@settings(max_examples=300, deadline=None)
@given(st.lists(codings, min_size=1, max_size=6), st.integers(0, 2**32-1))
def test_hu_of_a_batch_is_hu_of_its_slices(codings, seed):
    "Any bits, signed or not, any rescale; what lies above the stored bits is noise"
    df = pd.DataFrame(codings, columns='bits_stored pixel_representation slope intercept'.split())
    raw = np.random.default_rng(seed).integers(0, 2**16, (len(df), 4, 4), np.uint16)
    got = stored_to_hu(torch.from_numpy(raw.view(np.int16).copy())[:,None], PixelCoding.of(df), 4)[:,0].numpy()
    for x,px,(bits,signed,slope,intercept) in zip(got, raw, codings):
        px = px.view(np.int16 if signed else np.uint16)
        px = (px << (16-bits)) >> (16-bits)
        want = to_hu(px, slope, intercept, bool(broken_coding(bits, signed, intercept, slope)), np.int16)
        assert np.array_equal(x, want)

def test_the_rsna_codings():
    df = pd.DataFrame([(16, 1, -1024), (12, 0, -1024), (12, 0, -1000), (16, 1, 0), (12, 1, 0), (12, 0, 0), (12, 0, 1)],
        columns='bits_stored pixel_representation intercept'.split()).assign(slope=1.)
    assert PixelCoding.of(df).fix.tolist() == [False]*5 + [True]*2
    hu = np.array([-1000, 0, 40, 1000])
    stored = [hu+1024, hu+1024, hu+1000, hu, hu & 4095, hu & 4095, hu & 4095]
    px = torch.from_numpy(np.stack(stored).astype(np.int16)).reshape(7, 1, 2, 2)
    assert (stored_to_hu(px, PixelCoding.of(df), 2).reshape(7, 4).numpy() == hu).all()

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_area_mean(size, k, b, seed):
    px = np.random.default_rng(seed).integers(-3000, 3000, (b, size*k, size*k)).astype(np.int16)
    want = px.reshape(b, size, k, size, k).mean((2, 4))
    np.testing.assert_allclose(area_mean(torch.from_numpy(px), size).numpy(), want, rtol=1e-5, atol=1e-3)

def test_areas_of_other_sizes_keep_the_mean():
    px = torch.randn(2, 30, 30)
    for n in (20, 45): assert area_mean(px, n).shape == (2, n, n)
    assert torch.allclose(area_mean(torch.full((1, 30, 30), 7), 20), torch.tensor(7.))

@pytest.fixture(scope='module')
def table(heads): return scan(heads/'dicom')

@pytest.mark.parametrize('threads', [1, 3])
def test_a_batch_is_its_slices(table, heads, threads):
    reader = SliceReader(table, 32, threads)
    idxs = np.random.default_rng(0).permutation(len(table))[:23]
    batch = reader.read(idxs)
    assert not batch.done and not batch.errors and reader.side == 64
    for x,i in zip(batch.hu(32), idxs): assert torch.equal(x, read_slice(heads/'dicom'/table.path[i], 32).float())

def test_real_slices(real):
    "Every real slice, read by the batch, is what pydicom makes of it"
    df = scan(real/'dicom')
    reader = SliceReader(df, 512)
    for i in range(0, len(df), 37):
        hu = reader.read(range(i, min(i+37, len(df)))).hu(512)
        for x,path in zip(hu[:,0].numpy(), df.path[i:]):
            with pydicom.config.disable_value_validation(): ds = pydicom.dcmread(real/'dicom'/path)
            want = ds.pixel_array*float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            assert np.array_equal(x, want.clip(-2**15, 2**15-1)), path # one file has a pixel of -32812 HU

def test_odd_slices_land_in_the_same_batch(tmp_path):
    rng = np.random.default_rng(0)
    for i,shape in enumerate([(16, 16)]*3 + [(16, 24), (32, 32)]): write_dicom(tmp_path/f'{i}', rng.integers(-900, 900, shape).astype(np.int16))
    from pydicom.uid import RLELossless
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(tmp_path/'2')
        ds.compress(RLELossless)
        ds.save_as(tmp_path/'2')
    batch = SliceReader(scan(tmp_path), 8).read(range(5))
    assert sorted(batch.done) == [2, 3, 4] and not batch.errors
    for i,x in enumerate(batch.hu(8)): assert torch.equal(x, read_slice(tmp_path/f'{i}', 8).float())

@pytest.mark.parametrize('what,says', [('gone', 'No such file'), ('cut', 'changed since'), ('longer header', 'changed since'), ('a folder', 'Is a directory'), ('a pipe', '')])
def test_a_file_that_changed_costs_its_own_place(tmp_path, what, says):
    for i in range(4): write_dicom(tmp_path/f'{i}', np.full((16, 16), i, np.int16))
    df = scan(tmp_path)
    p = tmp_path/'2'
    data = p.read_bytes()
    p.unlink()
    if what == 'cut': p.write_bytes(data[:-100])
    if what == 'longer header': p.write_bytes(data[:300] + b' '*8 + data[300:])
    if what == 'a folder': p.mkdir()
    if what == 'a pipe': os.mkfifo(p)
    batch = SliceReader(df, 16).read([3, 2, 1])
    assert list(batch.errors) == [1] and batch.errors[1].startswith('2: ') and says in batch.errors[1]
    assert batch.hu(16).flatten(1).unique(dim=1).flatten().tolist() == [3, -1000, 1]

def test_a_reader_can_be_pickled_and_gives_the_same(table):
    reader = SliceReader(table, 32)
    first = reader.read([1, 2, 3]).hu(32)
    again = pickle.loads(pickle.dumps(reader)).read([1, 2, 3]).hu(32)
    assert torch.equal(first, again)

def test_a_table_without_root():
    with pytest.raises(DataError, match='root'): SliceReader(pd.DataFrame(dict(path=['a'])), 8)

def test_buffers_are_never_lent_twice():
    pool,seen = BufferPool(most=4),[]
    def work():
        for _ in range(300):
            a = pool.take((8,))
            a[:] = threading.get_ident() % 30000
            t = torch.from_numpy(a)
            del a
            if (t != threading.get_ident() % 30000).any(): seen.append(1)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not seen and len(pool.kept) <= 4

def test_nothing_but_air_where_a_slice_is_missing(table):
    df = table.assign(error=pd.Series(['bad'] + [None]*(len(table)-1), dtype='string'))
    assert not SliceReader(df, 32).plain[0]

def test_what_the_pixels_deserve_to_have_said(tmp_path):
    "A slice whose HU are shifted by a wrong intercept is read and flagged, the same by the batch as alone"
    from rsna_ich.phantom.studies import phantom_study
    hu = phantom_study(0, 64, n_slices=3).hu[1]
    for name,kw in dict(good={}, shifted=dict(RescaleIntercept='2000')).items(): write_dicom(tmp_path/name, hu, **kw)
    df = scan(tmp_path)
    notes = SliceReader(df, 32, notes=True).read([0, 1]).notes
    assert [o[1] for o in notes] == [' '.join(read_dicom(tmp_path/p).flags) or None for p in df.path]
    assert notes[0][1] is None and 'hu_range' in notes[1][1].split()

@pytest.fixture(scope='module')
def victims(tmp_path_factory):
    "A folder, and the bytes of an explicit, an implicit and an RLE file of the same head"
    from rsna_ich.phantom.studies import phantom_study
    root,hu = tmp_path_factory.mktemp('v'),phantom_study(0, 64, n_slices=3).hu[1]
    for name in ('explicit', 'implicit', 'rle'): write_dicom(root/name, hu)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(root/'implicit')
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        ds.save_as(root/'implicit')
        ds = pydicom.dcmread(root/'rle')
        ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        ds.save_as(root/'rle')
    return root, {o.name:o.read_bytes() for o in root.iterdir()}

@settings(max_examples=400, deadline=None)
@given(st.sampled_from(['explicit', 'implicit', 'rle']), st.lists(damage(), min_size=1, max_size=2))
def test_a_damaged_file_by_the_batch_is_what_it_is_alone(victims, name, changes):
    "Whatever was done to a file: the batch has the HU of `read_hu` and its flags, or neither of them reads it"
    root,files = victims
    data = files[name]
    for c in changes: data = c(data) if len(data) > 700 else data
    path = root.parent/'damaged'/'x'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    df = scan(path)
    if pd.notna(df.error[0]):
        with pytest.raises(DicomError): read_hu(path, frame=None)
        return
    b = SliceReader(df, int(max(df.rows[0], df.cols[0])), notes=True).read([0])
    if b.errors:
        with pytest.raises(DicomError): read_hu(path)
        return
    assert torch.equal(b.hu(int(max(df.rows[0], df.cols[0])))[0].clamp(-2**15, 2**15-1), read_slice(path).float())
    assert b.notes[0][1] == (' '.join(read_dicom(path).flags) or None)

def test_every_changed_byte_of_pixels_is_found(victims):
    "600 changes of one byte in three codings; each is named by the digest that was taken before"
    root,files = victims
    rng,found = np.random.default_rng(0),0
    for name,data in files.items():
        df = scan(root/name)
        df = df.assign(pixels_sha256=[SliceReader(df, 64, notes=True).read([0]).notes[0][0]]).set_axis(df.index)
        df.attrs['root'] = str(root)
        start = len(data) - (8192 if name != 'rle' else 2000)
        for _ in range(200):
            i = rng.integers(start, len(data) - (8 if name == 'rle' else 0)) # RLE ends with a delimiter
            (root/name).write_bytes(data[:i] + bytes([data[i] ^ rng.integers(1, 256)]) + data[i+1:])
            found += len(changed_pixels(df))
        (root/name).write_bytes(data)
        assert not len(changed_pixels(df))
    assert found == 600
