"Hounsfield units against pydicom, on real files, on every coding, and on files that must be refused"
import io, warnings
from pathlib import Path
import numpy as np, pydicom, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.data import get_testdata_file
from rsna_ich.core import DicomError
from rsna_ich.dicom import broken_coding, get_dicom_files, header_value, read_dicom, read_header, read_hu, stored_pixels, to_hu
from rsna_ich.phantom import write_dicom

def peer_hu(path):
    "What pydicom's own pixel array and rescale give, in float64"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(path)
        return ds.pixel_array.astype(np.float64)*float(ds.RescaleSlope) + float(ds.RescaleIntercept)

def test_real_files_equal_pydicom(real):
    n = 0
    for path in sorted((real/'dicom').iterdir()):
        ds = read_header(path)
        bits,signed,intercept = header_value(ds, 'bits_stored'),header_value(ds, 'pixel_representation'),header_value(ds, 'intercept')[0]
        if broken_coding(bits, signed, intercept): continue
        want = peer_hu(path)
        assert np.array_equal(read_hu(path), want), path.name
        assert np.array_equal(read_hu(path, np.int16), want.clip(-32768, 32767)), path.name
        n += 1
    assert n == 333

def test_reading_warns_of_nothing_and_keeps_pydicoms_settings(real):
    from pydicom import config
    before = config.settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = (real/'dicom'/'ID_000012eaf.dcm').dcmread()
        str(ds)
    assert config.settings.reading_validation_mode == before

bundled = ['CT_small.dcm', 'MR_small.dcm', 'MR_small_implicit.dcm', 'MR_small_bigendian.dcm', 'MR_small_RLE.dcm', 'MR_small_jp2klossless.dcm',
    'MR_small_jpeg_ls_lossless.dcm', 'MR_small_expb.dcm', 'JPEG2000.dcm', 'image_dfl.dcm']

@pytest.mark.parametrize('name', bundled)
def test_bundled_files_equal_pydicom(name):
    ds,buf = pydicom.dcmread(get_testdata_file(name, download=False)),io.BytesIO()
    want = ds.pixel_array
    ds.RescaleSlope,ds.RescaleIntercept = 2,-24
    ds.save_as(buf)
    assert np.array_equal(stored_pixels(read_dicom(buf.getvalue(), modality=None)), want)
    assert np.array_equal(read_hu(buf.getvalue(), modality=None), want*2.-24)

def test_names_and_ids_in_other_alphabets(tmp_path):
    path = _slice(tmp_path, SpecificCharacterSet='ISO_IR 192', PatientID='Ö12')
    assert header_value(read_header(path), 'patient') == 'Ö12'

@given(hnp.arrays(np.int32, (4, 6), elements=st.integers(-1000, 3095)), st.sampled_from([1., 2., .5]), st.sampled_from([-1024., -1000., 0., -8192., .25]))
def test_to_hu_undoes_the_rescale(hu, slope, intercept):
    stored = np.rint((hu - intercept)/slope).astype(np.int32)
    assert np.array_equal(to_hu(stored, slope, intercept, dtype=np.float64), stored*slope + intercept)

@given(hnp.arrays(np.int16, (5, 3), elements=st.integers(-1000, 3095)))
def test_the_broken_coding_is_mended(hu): assert np.array_equal(to_hu((hu % 4096).astype(np.uint16), fix=True), hu)

def test_unsigned_pixels_do_not_wrap():
    assert to_hu(np.array([0, 65535], np.uint16), 1, -1024).tolist() == [-1024, 64511]
    assert to_hu(np.array([0, 65535], np.uint16), 1, -1024, dtype=np.int16).tolist() == [-1024, 32767]

CODINGS = [(16, 1, -1024), (12, 0, -1024), (12, 0, -1000), (16, 1, 0), (12, 1, 0), (12, 0, 0), (12, 0, 1)]

@settings(max_examples=30, deadline=None)
@given(hu=hnp.arrays(np.int16, (8, 8), elements=st.integers(-1000, 2047)), coding=st.sampled_from(CODINGS), implicit=st.booleans())
def test_every_coding_comes_back(tmp_path_factory, hu, coding, implicit):
    path = tmp_path_factory.mktemp('c')/'ID_000000001.dcm'
    write_dicom(path, hu, coding=coding, implicit=implicit)
    assert np.array_equal(read_hu(path), hu)
    assert np.array_equal(path.hu16, hu)

def _slice(tmp_path, **tags):
    "A good slice whose header then says something else"
    path = tmp_path/'ID_00000000a.dcm'
    write_dicom(path, np.zeros((64, 64), np.int16))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(path)
        for k,v in tags.items():
            if v is None: delattr(ds, k)
            else: setattr(ds, k, v)
        ds.save_as(path)
    return path

@pytest.mark.parametrize('tags,says', [
    (dict(Rows=32), "the header doesn't fit the pixels"), (dict(Rows=128), 'truncated'), (dict(Rows=0), 'rows is 0'), (dict(Rows=65535, Columns=65535), 'outside 1..4096'),
    (dict(BitsStored=17, HighBit=16), "don't fit together"), (dict(HighBit=3), "don't fit together"), (dict(BitsAllocated=32), '32 bits allocated'),
    (dict(PixelRepresentation=2), 'pixel representation is 2'), (dict(RescaleSlope='0'), 'rescale slope is 0'), (dict(RescaleSlope=None), 'no rescale slope'),
    (dict(RescaleIntercept=None), 'no rescale intercept'), (dict(Modality='MR'), 'the modality is MR'), (dict(Modality=None), 'not given'),
    (dict(SamplesPerPixel=3, PhotometricInterpretation='RGB'), 'a colour image'), (dict(NumberOfFrames='5'), 'truncated'),
    (dict(NumberOfFrames='999999'), 'at most'), (dict(PixelData=None), 'no PixelData')])
def test_headers_that_can_not_be_true_are_refused(tmp_path, tags, says):
    path = _slice(tmp_path, **tags)
    with pytest.raises(DicomError, match=path.name) as e: read_dicom(path)
    assert says in str(e.value)

@pytest.mark.parametrize('data,says', [(b'', 'empty'), (b'hello'*50, 'not a DICOM file'), (b'\0'*128 + b'DICM', 'TransferSyntaxUID'), (b'\0'*128 + b'DICM' + b'\xff'*400, '')])
def test_bytes_that_are_no_dicom(tmp_path, data, says):
    (tmp_path/'x').write_bytes(data)
    with pytest.raises(DicomError) as e: read_dicom(tmp_path/'x')
    assert str(e.value).startswith('x: ') and says in str(e.value)

def test_a_folder_and_nothing(tmp_path):
    with pytest.raises(DicomError, match='a folder, not a file'): read_dicom(tmp_path)
    with pytest.raises(DicomError, match='no such file'): read_dicom(tmp_path/'none.dcm')

def test_no_patient_text_in_an_error(tmp_path):
    path = _slice(tmp_path, PatientName='CANARY^NAME', PatientID='CANARY-ID', StudyID='CANARY', RescaleSlope='0')
    with pytest.raises(DicomError) as e: read_dicom(path)
    assert 'CANARY' not in str(e.value)

def test_files_are_found_by_content(tmp_path):
    for name in ('a', 'b.img', 'c.dcm'): write_dicom(tmp_path/name, np.zeros((8, 8), np.int16))
    (tmp_path/'d.dcm').write_text('not one')
    assert [o.name for o in get_dicom_files(tmp_path)] == ['a', 'b.img', 'c.dcm']

def test_several_frames_need_a_choice(tmp_path):
    path = _slice(tmp_path, NumberOfFrames='2', Rows=32)
    with pytest.raises(DicomError, match='holds 2 frames'): path.hu
    assert read_hu(path, frame=1).shape == (32, 64)
    with pytest.raises(DicomError, match='outside 0..1'): read_hu(path, frame=2)
    assert len(path.show(frames='all')) == 2

@pytest.mark.parametrize('level', [0, 5])
def test_open_files_and_bytes_read_the_same(tmp_path, level):
    hu = np.full((8, 8), level, np.int16)
    write_dicom(tmp_path/'a', hu)
    data = (tmp_path/'a').read_bytes()
    assert np.array_equal(read_hu(data), hu) and np.array_equal(read_hu(io.BytesIO(data)), hu) and np.array_equal(Path(tmp_path/'a').hu, hu)
