"Statistics of pixels: plain numpy's on every real slice and every coding, in a table, in a store and in a scan"
import zipfile
import numpy as np, pandas as pd, pydicom, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from rsna_ich.dicom import scanning
from rsna_ich.core.errors import DataError
from rsna_ich.dicom.door import read_hu
from rsna_ich.dicom.header_rows import HEADER_COLS
from rsna_ich.dicom.header_files import load_headers
from rsna_ich.dicom.scanning import scan, scan_to
from rsna_ich.data.stats import STAT_COLS, hu_hash, pixel_stats, slice_stats
from rsna_ich.data.store import prepare
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import PHANTOM_CODINGS, write_dicom

COLS = list(STAT_COLS)

def plainly(hu):
    "The same by numpy in float64, without the hash"
    x = hu.astype(np.float64)
    steps = np.abs(np.diff(x, axis=1))
    rough = steps.mean()/x.std() if x.std() and steps.size else np.nan
    return [x.min(), x.max(), x.mean(), x.std(), ((x > 0) & (x < 80)).mean(), rough]

def check(row, hu):
    row = list(row)
    np.testing.assert_allclose([float(o) for o in row[:6]], plainly(hu), rtol=1e-9, atol=1e-9)
    assert row[6] == hu_hash(hu)

@pytest.fixture(scope='module')
def headers(heads): return scan(heads/'dicom')

values = st.one_of(st.integers(-2**15, 2**15-1), st.sampled_from([-2**15, 2**15-1, 0, 80]))

@settings(max_examples=300, deadline=None)
@given(arrays(np.int16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=values))
def test_any_int16(hu): check(slice_stats(hu), hu)

@given(st.integers(-2**15, 2**15-1), st.integers(1, 600))
def test_a_constant_has_no_deviation(v, n):
    s = slice_stats(np.full((n, 3), v, np.int16))
    assert s.hu_min == s.hu_max == s.hu_mean == v and s.hu_sd == 0 and np.isnan(s.roughness)

@given(arrays(np.int16, (4, 6)), arrays(np.int16, (4, 6)))
def test_a_hash_is_of_shape_and_values(a, b):
    assert (hu_hash(a) == hu_hash(b)) == np.array_equal(a, b)
    assert hu_hash(a) == hu_hash(np.asfortranarray(a)) != hu_hash(a.reshape(6, 4))

def test_sums_of_the_largest_slice_do_not_overflow():
    s = slice_stats(np.tile(np.array([[-2**15, 2**15-1]], np.int16), (4096, 2048)))
    assert s[:4] == (-2**15, 2**15-1, -.5, 32767.5) and s.roughness == 65535/32767.5

@pytest.mark.parametrize('bad', [np.zeros((2, 2)), np.zeros(4, np.int16), np.zeros((0, 4), np.int16)])
def test_what_is_no_slice_in_hu(bad):
    with pytest.raises(DataError, match='int16 HU'): slice_stats(bad)

def test_real_slices(real):
    df = pixel_stats(scan(real/'dicom'))
    assert len(df) == 333 and df.error.isna().all()
    for row,path in zip(df[COLS].itertuples(index=False), df.path): check(row, read_hu(real/'dicom'/path, np.int16))

def test_every_coding_of_a_picture_is_the_same(tmp_path):
    hu = np.clip(phantom_study(0, 64, n_slices=3).hu[1], -1000, 2000).astype(np.int16)
    for i,(c,implicit) in enumerate((c, o) for c in PHANTOM_CODINGS for o in (False, True)): write_dicom(tmp_path/f'{i}', hu, c, implicit)
    df = pixel_stats(scan(tmp_path))
    assert len(df) == 14 and len(df[COLS].drop_duplicates()) == 1
    check(df[COLS].iloc[0], hu)

def test_compressed_odd_and_unreadable_ones(tmp_path):
    hu = phantom_study(0, 64, n_slices=3).hu[1]
    for name,implicit in dict(explicit=False, implicit=True, rle=False).items(): write_dicom(tmp_path/name, hu, implicit=implicit)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(tmp_path/'rle')
        ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        ds.save_as(tmp_path/'rle')
    write_dicom(tmp_path/'oblong', np.arange(6000, dtype=np.int16).reshape(60, 100))
    write_dicom(tmp_path/'halves', np.arange(4096, dtype=np.int16).reshape(64, 64), RescaleSlope='0.5')
    (tmp_path/'text').write_text('hello '*99)
    table = scan(tmp_path)
    df = pixel_stats(table).set_index('path')
    assert df.loc['explicit', COLS].equals(df.loc['rle', COLS]) and df.loc['implicit', COLS].equals(df.loc['rle', COLS])
    for name in ('oblong', 'halves', 'rle'): check(df.loc[name, COLS], read_hu(tmp_path/name, np.int16))
    assert df.loc['text', COLS].isna().all() and df.error['text'] == table.set_index('path').error['text']
    (tmp_path/'rle').unlink()
    df = pixel_stats(table).set_index('path')
    assert df.loc['rle', COLS].isna().all() and 'no such file' in df.error['rle']

def test_an_empty_table(headers):
    df = headers[:0]
    df.attrs = headers.attrs
    got = pixel_stats(df)
    assert list(got) == [*HEADER_COLS, *STAT_COLS] and got.dtypes.equals(pixel_stats(headers).dtypes)

def test_the_index_of_a_store_has_the_same(headers, heads, tmp_path):
    for p in headers.path[:6]: (tmp_path/p).write_bytes((heads/'dicom'/p).read_bytes())
    df = scan(tmp_path)
    (tmp_path/df.path[2]).write_bytes(b'gone')
    want = pixel_stats(df)
    for size in (16, 64): pd.testing.assert_frame_equal(prepare(df, tmp_path/f's{size}', size=size).index[[*COLS, 'error']], want[[*COLS, 'error']])

@pytest.mark.parametrize('workers', [1, 2])
def test_a_scan_has_the_same(headers, heads, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(scanning, 'FILES_PER_PART', 32)
    assert scan_to(tmp_path/'h.parquet', heads/'dicom', workers=workers, more=pixel_stats) == len(headers)
    got,want = load_headers(tmp_path/'h.parquet'),pixel_stats(headers)
    pd.testing.assert_frame_equal(got, want)
    assert got.attrs == want.attrs and got[COLS].notna().all(axis=None)

def test_a_scan_of_an_archive_has_the_same(headers, heads, tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for p in headers.path[:20]: z.write(heads/'dicom'/p, p)
    scan_to(tmp_path/'h.parquet', tmp_path/'a.zip', more=pixel_stats)
    pd.testing.assert_frame_equal(load_headers(tmp_path/'h.parquet')[['path', *COLS]], pixel_stats(headers)[['path', *COLS]][:20])

class Killed(Exception): "As a kill would end it"

def test_a_scan_of_pixels_goes_on_where_it_was_stopped_and_is_not_mixed(headers, heads, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, 'FILES_PER_PART', 32)
    calls = []
    def dies(df):
        if not len(df): return pixel_stats(df) # asked for its columns
        calls.append(len(df))
        if len(calls) == 3: raise Killed
        return pixel_stats(df)
    with pytest.raises(Killed): scan_to(tmp_path/'h.parquet', heads/'dicom', workers=1, more=dies)
    with pytest.raises(DataError, match='another scan'): scan_to(tmp_path/'h.parquet', heads/'dicom', resume=True)
    scan_to(tmp_path/'h.parquet', heads/'dicom', workers=1, resume=True, more=dies)
    assert sum(calls) - 32 == len(headers) and not (tmp_path/'h.parquet.part').exists()
    pd.testing.assert_frame_equal(load_headers(tmp_path/'h.parquet'), pixel_stats(headers))
