"The header table: its contract, its order, and files that can't be read"
import os, shutil
from pathlib import Path
import numpy as np, pandas as pd, pydicom, pytest
from hypothesis import given, settings, strategies as st
from tests.damage import damage
from rsna_ich.dicom import scanning
from rsna_ich.core.errors import DataError
from rsna_ich.dicom.header_rows import HEADER_COLS, header_row, header_rows
from rsna_ich.dicom.header_files import file_paths, load_headers, save_headers
from rsna_ich.dicom.scanning import scan, scan_to
from rsna_ich.dicom.passes import slice_position
from rsna_ich.dicom.series import in_slice_order
from rsna_ich.phantom.files import write_dicom

CONTRACT = '''sop patient study series path frame pixel_offset pixel_bytes transfer_syntax rows cols bits_allocated bits_stored high_bit pixel_representation
samples_per_pixel frames slope intercept padding_low padding_high window_center window_width n_windows x y z ix iy iz jx jy jz spacing_y spacing_x
slice_location instance acquisition acquisition_time slice_thickness kernel contrast image_type kind orientation modality photometric flags error'''.split()

def test_contract(heads):
    df = scan(heads/'dicom')
    assert list(df.columns) == CONTRACT == list(HEADER_COLS)
    assert df.attrs['root'] == str(heads/'dicom')
    assert str(df.pixel_offset.dtype) == 'Int64' and df.error.isna().all()
    assert all(p.is_file() for p in file_paths(df))

def test_values_equal_pydicom(real):
    df = scan(real/'dicom')
    assert len(df) == 333 and df.error.isna().all()
    for row,path in zip(df.itertuples(), file_paths(df)):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path)
            want = dict(sop=str(ds.SOPInstanceUID), patient=ds.PatientID, study=str(ds.StudyInstanceUID), series=str(ds.SeriesInstanceUID),
                rows=ds.Rows, cols=ds.Columns,
                bits_stored=ds.BitsStored, pixel_representation=ds.PixelRepresentation, slope=float(ds.RescaleSlope), intercept=float(ds.RescaleIntercept),
                z=float(ds.ImagePositionPatient[2]), jz=float(ds.ImageOrientationPatient[5]), spacing_y=float(ds.PixelSpacing[0]), modality=ds.Modality,
                transfer_syntax=str(ds.file_meta.TransferSyntaxUID), pixel_bytes=len(ds.PixelData),
                n_windows=ds['WindowCenter'].VM, window_center=float(np.atleast_1d(ds.WindowCenter)[0]))
        assert {k:getattr(row, k) for k in want} == want, row.path
        assert path.read_bytes()[row.pixel_offset:row.pixel_offset+row.pixel_bytes] == ds.PixelData

def test_compressed_files_have_no_offset(tmp_path):
    from pydicom.uid import RLELossless
    write_dicom(tmp_path/'a', np.zeros((16, 16), np.int16))
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(tmp_path/'a')
        ds.compress(RLELossless)
        ds.save_as(tmp_path/'a')
    row = scan(tmp_path).iloc[0]
    assert pd.isna(row.pixel_offset) and pd.isna(row.pixel_bytes) and pd.isna(row.error)

def test_every_file_is_a_row(heads, tmp_path):
    files = sorted((heads/'dicom').iterdir())
    deep = tmp_path/'a'/'b c'/'ü'
    deep.mkdir(parents=True)
    shutil.copy(files[0], deep/'no suffix')
    shutil.copy(files[1], tmp_path/'IM.0001.txt')
    (tmp_path/'notes.dcm').write_text('hello '*99)
    (tmp_path/'empty').touch()
    (tmp_path/'half.dcm').write_bytes(files[2].read_bytes()[:1500])
    df = scan(tmp_path)
    assert list(df.path) == ['IM.0001.txt', 'empty', 'half.dcm', 'notes.dcm', 'a/b c/ü/no suffix']
    assert df.error.notna().tolist() == [False, True, True, True, False]
    assert df.sop.notna().tolist() == [True, False, True, False, True]

def test_a_strange_optional_field_costs_nothing(tmp_path):
    write_dicom(tmp_path/'a', np.zeros((16, 16), np.int16), WindowCenter='40')
    data = (tmp_path/'a').read_bytes()
    (tmp_path/'a').write_bytes(data.replace(b'DS\x02\x0040', b'DS\x02\x00NA', 1))
    row = scan(tmp_path).iloc[0]
    assert pd.isna(row.error) and pd.isna(row.window_center) and pd.notna(row.sop)

@pytest.mark.parametrize('frames,says', [('2', '2 frames in one file'), ('9e99', '0 frames')])
def test_frames(tmp_path, frames, says):
    write_dicom(tmp_path/'a', np.zeros((16, 16), np.int16))
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(tmp_path/'a')
        ds.NumberOfFrames = 2
        ds.Rows = 8
        ds.save_as(tmp_path/'a')
    data = (tmp_path/'a').read_bytes()
    if frames != '2': (tmp_path/'a').write_bytes(data.replace(b'IS\x02\x002 ', b'IS\x04\x00' + frames.encode(), 1))
    assert says in scan(tmp_path).error[0]

def test_no_pixels(tmp_path):
    write_dicom(tmp_path/'a', np.zeros((16, 16), np.int16))
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(tmp_path/'a')
        del ds.PixelData
        ds.save_as(tmp_path/'a')
    assert 'no PixelData' in scan(tmp_path).error[0]

def test_links_to_folders_are_followed_once(heads, tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'far').symlink_to(heads/'dicom')
    (tmp_path/'in'/'loop').symlink_to(tmp_path/'in')
    assert len(scan(tmp_path/'in')) == len(scan(heads/'dicom'))

def test_a_name_that_is_not_utf8(heads, tmp_path):
    name = bytes(tmp_path) + b'/\xff.dcm'
    with open(name, 'wb') as f: f.write(next((heads/'dicom').iterdir()).read_bytes())
    df = scan(tmp_path)
    assert 'not valid UTF-8' in df.error[0]
    save_headers(df, tmp_path/'h.parquet')

def test_the_table_survives_a_round_trip_and_a_move(heads, tmp_path):
    df = scan(heads/'dicom')
    save_headers(df, tmp_path/'h.parquet')
    back = load_headers(tmp_path/'h.parquet')
    pd.testing.assert_frame_equal(back, df)
    assert back.attrs == df.attrs
    assert file_paths(load_headers(tmp_path/'h.parquet', root='/elsewhere'))[0].parts[:2] == ('/', 'elsewhere')

@pytest.mark.parametrize('what', ['nothing', 'an empty folder'])
def test_no_files(tmp_path, what):
    with pytest.raises(DataError): scan(tmp_path/'none' if what == 'nothing' else tmp_path)

def test_not_a_header_table(tmp_path):
    pd.DataFrame(dict(a=[1])).to_parquet(tmp_path/'x.parquet')
    with pytest.raises(DataError, match='it lacks sop'): load_headers(tmp_path/'x.parquet')
    (tmp_path/'y.parquet').write_text('no')
    with pytest.raises(DataError, match='not a Parquet file'): load_headers(tmp_path/'y.parquet')
    with pytest.raises(DataError, match='no such header table'): load_headers(tmp_path/'z.parquet')

def test_order_is_along_the_normal():
    "A series tilted by 20 degrees, listed upside down, whose slices are shifted within their plane so that z alone misleads"
    n,a = 5,np.deg2rad(20)
    normal = np.array([0, np.sin(a), np.cos(a)])
    in_plane = np.array([0, np.cos(a), -np.sin(a)])
    pos = np.arange(n)[::-1,None]*5*normal + np.array([[0, 80, -80, 30, 0]]).T*in_plane
    df = pd.DataFrame(pos, columns=list('xyz')).assign(ix=1., iy=0., iz=0., jx=0., jy=np.cos(a), jz=-np.sin(a), study='s', series='t', path=list('edcba'))
    assert np.allclose(slice_position(df), np.arange(n)[::-1]*5)
    assert in_slice_order(df).path.tolist() == list('abcde')
    assert not df.z.is_monotonic_decreasing

def test_the_two_real_series_are_evenly_spaced(real):
    df = in_slice_order(scan(real/'dicom'))
    sizes = df.groupby('series').size().sort_values()
    assert sizes.iloc[-2:].tolist() == [32, 36]
    for s in sizes.index[-2:]:
        step = df.position[df.series == s].diff().dropna()
        assert (step > 0).all() and (step.round(1).nunique() <= 3)


def both_ways(path, codings):
    "The row of a file by the fast way (None when it isn't taken) and by pydicom"
    fast = scanning._rows(str(path.parent), path.name, scanning._head, 'CT', codings)[0]
    return fast, tuple(map((header_row(path) | dict(path=path.name)).get, HEADER_COLS))

def same(a, b):
    "Equal values of equal types, NaN as itself: the text of a float is exact"
    return repr(a) == repr(b)

def test_fast_and_slow_agree_on_real_files(real, monkeypatch):
    slow,codings = [],{}
    monkeypatch.setattr(scanning, 'header_rows', lambda *a: slow.append(a) or header_rows(*a))
    paths = sorted((real/'dicom').iterdir())
    for p in paths: assert same(*both_ways(p, codings)), p.name
    assert len(slow) == len(codings) < 20 < len(paths), 'all but the first file of each coding go the fast way'

def test_fast_and_slow_agree_on_phantoms(heads):
    codings = {}
    for p in (heads/'dicom').iterdir(): assert same(*both_ways(p, codings))

def test_fast_and_slow_agree_on_pydicoms_own_files():
    files = [p for p in (Path(pydicom.__file__).parent/'data'/'test_files').rglob('*') if p.is_file()]
    assert len(files) > 100
    codings = {}
    for p in files*2: assert same(*both_ways(p, codings)), p.name

@pytest.fixture(scope='module')
def coded(tmp_path_factory):
    "A folder with an explicit and an implicit file, their bytes, and the codings learnt from them"
    root,codings = tmp_path_factory.mktemp('coded'),{}
    write_dicom(root/'explicit', np.zeros((16, 16), np.int16), WindowCenter='40', PatientID='P 1')
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(root/'explicit')
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        ds.save_as(root/'implicit')
    files = [(root/o).read_bytes() for o in ('explicit', 'implicit')]
    for o in ('explicit', 'implicit'): both_ways(root/o, codings)
    assert len(codings) == 2
    return root, files, codings

@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 1), st.lists(damage(), min_size=1, max_size=3))
def test_fast_and_slow_agree_on_damaged_files(coded, which, changes):
    root,files,codings = coded
    data = files[which]
    for c in changes: data = c(data) if len(data) > 700 else data
    path = root/'damaged'
    path.write_bytes(data)
    assert same(*both_ways(path, dict(codings)))

def test_a_header_longer_than_two_kib(tmp_path, monkeypatch):
    for i in range(3): write_dicom(tmp_path/f'{i}', np.zeros((16, 16), np.int16), ImageComments='x'*5000)
    slow = []
    monkeypatch.setattr(scanning, 'header_rows', lambda *a: slow.append(a) or header_rows(*a))
    scanning._codings.cache_clear()
    df = scan(tmp_path)
    assert df.error.isna().all() and len(slow) == 1

def test_any_number_of_processes_gives_the_same_table(heads, monkeypatch):
    monkeypatch.setattr(scanning, 'FILES_PER_PART', 16)
    pd.testing.assert_frame_equal(scan(heads/'dicom', workers=1), scan(heads/'dicom', workers=2))

class Killed(Exception): "As a kill would end it"

def test_a_scan_goes_on_where_it_was_stopped(heads, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, 'FILES_PER_PART', 16)
    part,calls = scanning.header_part,[]
    def dies(*args):
        calls.append(1)
        if len(calls) == 4: raise Killed
        return part(*args)
    monkeypatch.setattr(scanning, 'header_part', dies)
    with pytest.raises(Killed): scan_to(tmp_path/'h.parquet', heads/'dicom', workers=1)
    assert not (tmp_path/'h.parquet').exists() and len(list((tmp_path/'h.parquet.part').iterdir())) == 3
    calls[:] = [1]*4
    n = scan_to(tmp_path/'h.parquet', heads/'dicom', workers=1, resume=True)
    assert len(calls) - 4 == -(-n//16) - 3
    df = load_headers(tmp_path/'h.parquet')
    pd.testing.assert_frame_equal(df, scan(heads/'dicom'))
    assert df.attrs['root'] == str(heads/'dicom') and not (tmp_path/'h.parquet.part').exists()

def test_the_rest_of_another_scan_is_not_taken(heads, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, '_join', lambda *a: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed): scan_to(tmp_path/'h.parquet', heads/'dicom', workers=1)
    monkeypatch.undo()
    with pytest.raises(DataError, match='another scan'): scan_to(tmp_path/'h.parquet', heads/'dicom', None, resume=True)
    assert scan_to(tmp_path/'h.parquet', heads/'dicom', None) > 0

def test_a_pipe_among_the_files_does_not_stop_the_scan(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    write_dicom(tmp_path/'a', np.zeros((16, 16), np.int16))
    assert scan(tmp_path).error.notna().tolist() == [False, True]

def test_a_table_written_into_the_scanned_folder_is_not_in_itself(heads, tmp_path):
    for f in sorted((heads/'dicom').iterdir())[:9]: shutil.copy(f, tmp_path/f.name)
    for resume in (False, True):
        assert scan_to(tmp_path/'headers.parquet', tmp_path, resume=resume) == 9
        assert load_headers(tmp_path/'headers.parquet').error.isna().all()

def test_files_that_come_and_go_while_they_are_listed(heads, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, 'FILES_PER_PART', 4)
    for f in sorted((heads/'dicom').iterdir())[:10]: shutil.copy(f, tmp_path/f.name)
    names = scanning.walk_names
    for more in (['x', 'y', 'z'], []):
        counted = []
        def walk(root):
            yield from sorted([*names(root)][:10 if counted else 13 - len(more)*2] + (more if counted else []))
            counted.append(1)
        monkeypatch.setattr(scanning, 'walk_names', walk)
        n = scan_to(tmp_path.parent/'h.parquet', tmp_path, workers=1)
        assert n == len(load_headers(tmp_path.parent/'h.parquet')) == 10 + len(more)
