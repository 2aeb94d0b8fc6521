"Files that are old, odd or harmlessly wrong give the same HU as the plain one, with a flag; what can't be read is refused for the true reason"
import struct, zipfile
from pathlib import Path
import numpy as np, pandas as pd, pydicom, pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from rsna_ich.core.errors import DicomError
from rsna_ich.dicom.batch_hu import read_slice
from rsna_ich.dicom.door import read_dicom, read_hu, upright_hu
from rsna_ich.dicom.files import get_dicom_files
from rsna_ich.dicom.hounsfield import AIR_HU, to_hu
from rsna_ich.dicom.reader import SliceReader
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.stored import stored_pixels
from rsna_ich.data.stats import pixel_stats
from rsna_ich.phantom.files import write_dicom
from rsna_ich.phantom.studies import phantom_study
from tests.odd_files import *

@pytest.fixture(scope='module')
def hu(): return phantom_study(seed=8, size=64, n_slices=24).hu[12].astype(np.int16)

@pytest.fixture(scope='module')
def plain(hu, tmp_path_factory): return good_file(tmp_path_factory.mktemp('plain'), hu)

@pytest.fixture(scope='module')
def implicit(hu, tmp_path_factory): return good_file(tmp_path_factory.mktemp('implicit'), hu, implicit=True)

def _read(data, hu, *flags):
    "The file gives these HU and these flags by every way"
    ds = read_dicom(data)
    assert [o for o in ds.flags if o not in ('slope', 'narrow', 'intercept', 'no_air')] == list(flags)
    assert np.array_equal(read_hu(data), hu)
    assert np.array_equal(read_hu(data, np.int16), hu)

def _scanned(data, folder, hu, *flags):
    "And so it is in the header table and for the batch reader"
    (folder/'odd.dcm').write_bytes(data)
    df = scan(folder)
    row = df[df.path == 'odd.dcm'].iloc[0]
    assert pd.isna(row.error)
    reader = SliceReader(df[df.path == 'odd.dcm'].reset_index(drop=True).pipe(_rooted, df), 64, notes=True)
    batch = reader.read([0])
    assert not batch.errors and np.array_equal(batch.hu(64)[0,0].numpy(), np.asarray(hu, np.float32))
    assert set(flags) <= set((batch.notes[0][1] or '').split())

def _rooted(part, df):
    part.attrs = df.attrs
    return part

def _refused(data, says):
    with pytest.raises(DicomError) as e: read_dicom(data)
    said = str(e.value)
    assert says in said or says == 'cut off' and 'truncated' in said
    assert '\n' not in said

# headers without their beginning, or under another syntax than they say

def _bare(plain, implicit, which):
    preamble,meta,explicit_body = without_meta(plain, False)
    implicit_body = without_meta(implicit, True)[2]
    return dict(bare_implicit=implicit_body, bare_explicit=explicit_body, preamble_no_meta_implicit=preamble + implicit_body,
        preamble_no_meta_explicit=preamble + explicit_body, meta_without_preamble=meta + explicit_body,
        no_mark=bytes(132) + meta + explicit_body)[which]

@pytest.mark.parametrize('which', ['bare_implicit', 'bare_explicit', 'preamble_no_meta_implicit', 'preamble_no_meta_explicit', 'meta_without_preamble', 'no_mark'])
def test_a_file_without_its_beginning(plain, implicit, hu, tmp_path, which):
    data = _bare(plain, implicit, which)
    _read(data, hu, 'bare')
    _scanned(data, tmp_path, hu, 'bare')
    _refused(data[:-200], 'cut off')
    assert which == 'no_mark' or get_dicom_files(tmp_path) == [tmp_path/'odd.dcm']

@pytest.mark.parametrize('written,declared', [('explicit', ImplicitVRLittleEndian), ('implicit', ExplicitVRLittleEndian), ('implicit', ExplicitVRBigEndian)])
def test_data_under_another_syntax_than_they_say(plain, implicit, hu, tmp_path, written, declared):
    data = with_syntax(plain if written == 'explicit' else implicit, declared)
    _read(data, hu, 'syntax')
    _scanned(data, tmp_path, hu, 'syntax')
    _refused(data[:-200], 'cut off')

def test_compressed_pixels_without_a_syntax_have_a_way_out(plain):
    body = without_meta(compressed(plain, RLELossless), False)[2]
    _refused(body, 'the coding of its compressed pixels is unknown')

# lawful or harmless headers

PRIVATE = element(0x00090010, b'LO', b'ACME')
INNER = element(0x00080100, b'SH', b'T-D1')
IMPLICIT_INNER = struct.pack('<HHI', 0x0008, 0x0100, 4) + b'T-D1'
HARMLESS = dict( # chkstyle: ignore-node
    sq_known_length_delimiter=(0x00090010, PRIVATE + element(0x00091001, b'SQ', item(INNER) + SEQUENCE_END), ['delimiter']),
    item_known_length_delimiter=(0x00090010, PRIVATE + element(0x00091001, b'SQ', item(INNER + ITEM_END)), ['delimiter']),
    stray_sequence_delimiter=(0x00090010, PRIVATE + element(0x00091001, b'SQ', item(INNER)) + SEQUENCE_END, ['delimiter']),
    stray_item_delimiter=(0x00180050, ITEM_END, ['delimiter']),
    un_open_explicit=(0x00090010, PRIVATE + element(0x00091001, b'UN', item(INNER) + SEQUENCE_END, OPEN), ['items']),
    un_open_explicit_open_items=(0x00090010, PRIVATE + element(0x00091001, b'UN', item(INNER + ITEM_END, OPEN) + SEQUENCE_END, OPEN), ['items']),
    un_known_public_explicit=(0x00081140, element(0x00081140, b'UN', item(INNER)), ['items']),
    un_known_private_explicit=(0x00090010, PRIVATE + element(0x00091001, b'UN', item(INNER)), []),
    un_open_implicit=(0x00090010, PRIVATE + element(0x00091001, b'UN', item(IMPLICIT_INNER) + SEQUENCE_END, OPEN), []),
    modality_twice=(0x00080060, element(0x00080060, b'CS', b'CT'), ['repeated']),
    slope_twice=(0x00281053, element(0x00281053, b'DS', b'1.000000'), ['repeated']))

@pytest.mark.parametrize('kind', HARMLESS)
def test_harmless_headers(plain, hu, tmp_path, kind):
    tag,more,flags = HARMLESS[kind]
    if kind == 'slope_twice': more = next(plain[o.start:o.stop] for o in elements(plain, False) if o.tag == tag)
    data = with_elements(plain, tag, more)
    _read(data, hu, *flags)
    _scanned(data, tmp_path, hu, *flags)
    path = tmp_path/'odd.dcm'
    assert path.dcmread().Rows == 64 # and pydicom converts all of it

def test_an_element_with_two_values_is_refused(plain):
    _refused(with_elements(plain, 0x00281053, element(0x00281053, b'DS', b'2 ')), '(0028,1053) is there twice')
    _refused(with_elements(plain, 0x00080060, element(0x00080060, b'CS', b'MR')), 'is there twice')

@pytest.mark.parametrize('more', [b'\0\0', b'\0'*16, b'pads'*7, bytes(128), b'\x30\xf8'*500])
def test_more_pixel_bytes_than_needed(plain, hu, tmp_path, more):
    data = with_more_pixel_bytes(plain, more)
    _read(data, hu, 'padded')
    _scanned(data, tmp_path, hu, 'padded')

@pytest.mark.parametrize('more', [b'rows'*32, b'rows'*64, bytes(1026)])
def test_a_row_more_than_needed_is_no_padding(plain, more, tmp_path):
    data = with_more_pixel_bytes(plain, more)
    _refused(data, "the header doesn't fit the pixels")
    (tmp_path/'odd.dcm').write_bytes(data)
    df = scan(tmp_path)
    assert df.error.notna().all() or 0 in SliceReader(df, 64).read([0]).errors

def test_a_padded_file_teaches_the_fast_way_nothing(plain, hu, tmp_path):
    (tmp_path/'a.dcm').write_bytes(with_more_pixel_bytes(plain, b'\0\0'))
    for k in 'bcd': (tmp_path/f'{k}.dcm').write_bytes(plain)
    assert scan(tmp_path)['flags'].fillna('').tolist() == ['padded', '', '', '']

# codec containers and sample types

def _j2k(plain): return compressed(plain, JPEG2000Lossless)

def _unsigned_stream(hu, folder):
    "Signed words kept as an unsigned stream, under a header that says signed"
    ds = loaded(write_dicom(Path(folder)/'s.dcm', hu, (16, 1, 0)).read_bytes())
    ds.PixelRepresentation = 0
    with pydicom.config.disable_value_validation(): ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.PixelRepresentation = 1
    return saved(ds)

def test_an_unsigned_jpeg2000_stream_under_a_signed_header(hu, tmp_path):
    data = _unsigned_stream(hu, tmp_path)
    _read(data, hu, 'codec_sign')
    _scanned(data, tmp_path, hu, 'codec_sign')

def test_a_signed_stream_under_an_unsigned_header_is_refused(plain):
    ds = loaded(_j2k(plain))
    ds.PixelRepresentation = 0
    _refused(saved(ds), 'are signed, the header says the opposite')

def test_a_jp2_file_in_place_of_its_stream(plain, hu):
    data = _j2k(plain)
    boxed = in_boxes(frame_of(data).rstrip(b'\0'), 64, 64, 16, 1)
    _read(repacked(data, [boxed + b'\0'*(len(boxed)%2)]), hu, 'jp2')
    _read(repacked(data, [boxed[:100], boxed[100:] + b'\0'*(len(boxed)%2)]), hu, 'jp2')
    _refused(repacked(data, [boxed[:60]]), 'the JPEG 2000 file')

@pytest.mark.parametrize('uid', [RLELossless, JPEG2000Lossless], ids=lambda u: u.keyword)
def test_compressed_pixels_without_their_end_mark(plain, hu, uid):
    data = compressed(plain, uid)
    assert data.endswith(SEQUENCE_END)
    _read(data[:-8], hu, 'no_end')
    _refused(data[:-9], 'cut off')
    if uid == JPEG2000Lossless: # one of two pieces is lost: the frame itself says that it isn't whole
        frame = frame_of(data)
        half = len(frame)//4*2
        two = repacked(data, [frame[:half], frame[half:]])
        _refused(two[:-8-8-len(frame[half:])], 'cut off')

@pytest.mark.parametrize('uid', [RLELossless, JPEG2000Lossless], ids=lambda u: u.keyword)
def test_compressed_pixels_of_a_known_length(plain, hu, uid):
    data = known_length(compressed(plain, uid))
    _read(data, hu, 'encapsulated')
    _refused(data[:-20], 'cut off')

def test_plain_pixels_under_a_compressed_syntax_are_refused(plain): _refused(with_syntax(plain, RLELossless), 'plain pixels')

@pytest.mark.parametrize('cuts', [(200,), (64, 500, 900)])
def test_an_rle_frame_in_pieces(plain, hu, cuts):
    data = compressed(plain, RLELossless)
    frame = frame_of(data)
    _read(repacked(data, [frame[a:b] for a,b in zip((0, *cuts), (*cuts, len(frame)))]), hu, 'pieces')

@pytest.mark.parametrize('stored', [8, 16])
def test_eight_bits_of_jpeg_lossless_in_sixteen(hu, tmp_path, stored):
    data,want = lossless_8_bits(tmp_path, hu, stored)
    _read(data, want, *['codec_bits']*(stored == 16))

@pytest.mark.parametrize('signed', [True, False])
def test_integers_of_32_bits(plain, hu, tmp_path, signed):
    _read(wide(plain, signed), hu)
    _scanned(wide(plain, signed), tmp_path, hu)

@pytest.mark.parametrize('keyword', ['FloatPixelData', 'DoubleFloatPixelData'])
def test_floating_point_pixels_are_refused_for_what_they_are(plain, hu, keyword):
    ds = loaded(plain)
    del ds.PixelData
    setattr(ds, keyword, hu.astype('<f4' if keyword[0] == 'F' else '<f8').tobytes())
    ds.BitsAllocated = 32 if keyword[0] == 'F' else 64
    _refused(saved(ds), f'floating-point numbers ({keyword})')

@pytest.mark.parametrize('kind', ['gz', 'bz2', 'xz'])
def test_a_packed_file(plain, hu, tmp_path, kind):
    data = packed(plain)[kind]
    _read(data, hu, 'packed')
    _scanned(data, tmp_path, hu, 'packed')
    with zipfile.ZipFile(tmp_path/'all.zip', 'w') as z: z.writestr(f'a.dcm.{kind}', data)
    inside = scan(tmp_path/'all.zip')
    assert inside.error.isna().all() and np.array_equal(SliceReader(inside, 64).read([0]).hu(64)[0,0].numpy(), hu)
    _refused(data[:-30], 'packed')

# the mend of RSNA's broken coding

def _coded(folder, hu, **tags): return write_dicom(folder/'c.dcm', hu, (12, 0, 0), **tags)

def test_the_broken_coding_is_mended_where_the_pixels_show_it(hu, tmp_path):
    hu = hu.clip(-1000, 3000) # all that it can hold
    path = _coded(tmp_path, hu)
    assert read_dicom(path).flags == ['mended'] and np.array_equal(read_hu(path), hu)
    _scanned(path.read_bytes(), tmp_path, hu, 'mended')

@pytest.mark.parametrize('tags', [dict(RescaleSlope=.5), dict(Modality='MG'), dict(RescaleSlope=2)])
def test_other_twelve_bit_files_are_left_alone(tmp_path, tags):
    stored = np.arange(64*64).reshape(64, 64) % 4096
    ds = loaded(_coded(tmp_path, np.zeros((64, 64), int), **tags).read_bytes())
    ds.PixelData = stored.astype('<u2').tobytes()
    got = read_hu(saved(ds), modality=None)
    assert np.array_equal(got, stored*float(tags.get('RescaleSlope', 1)))
    assert 'mended' not in read_dicom(saved(ds), modality=None).flags

def test_the_header_alone_is_no_evidence(tmp_path):
    "Unsigned 12 bits, intercept 0, nothing stored near 3096 but a clip of metal"
    stored = np.full((64, 64), 40)
    stored[30:33,30:33] = 3500
    path = _coded(tmp_path, np.zeros((64, 64), int))
    ds = loaded(path.read_bytes())
    ds.PixelData = stored.astype('<u2').tobytes()
    path.write_bytes(saved(ds))
    ds = read_dicom(path)
    assert 'mended' not in ds.flags and 'narrow' in ds.flags and read_hu(ds).max() == 3500
    df = scan(tmp_path)
    batch = SliceReader(df, 64, notes=True).read([0])
    assert batch.hu(64).max() == 3500 and 'narrow' in batch.notes[0][1] and 'mended' not in batch.notes[0][1]

# one door for datasets as well

def test_a_dataset_from_pydicom_is_checked_like_a_file(plain, hu):
    ds = loaded(plain)
    assert np.array_equal(ds.hu, hu) and np.array_equal(ds.pixels, stored_pixels(read_dicom(plain)))
    ds.Modality = 'MR'
    with pytest.raises(DicomError, match='the modality is MR'): ds.hu
    with pytest.raises(DicomError, match='the modality is MR'): read_hu(ds, modality='CT')
    assert np.array_equal(read_hu(ds, modality=None), hu)
    ds.Modality,ds.Rows = 'CT', 32
    for f in (lambda: ds.hu, lambda: ds.pixels, lambda: ds.windowed('brain')):
        with pytest.raises(DicomError, match="the header doesn't fit the pixels"): f()
    ds.Rows,ds.SamplesPerPixel,ds.PhotometricInterpretation = 64, 3, 'RGB'
    with pytest.raises(DicomError, match='a colour image'): ds.hu
    ds.SamplesPerPixel,ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.PixelData = ds.PixelData[:-2]
    with pytest.raises(DicomError, match='cut off'): ds.hu
    del ds.PixelData
    with pytest.raises(DicomError, match='no PixelData'): ds.hu

# one definition of HU

@pytest.mark.parametrize('slope', [1.1, .3, .999, 2, 1.0000001])
@pytest.mark.parametrize('coding', [(16, 1, -1024), (16, 0, -1000.5), (12, 0, -1024), (12, 1, -3)])
@pytest.mark.parametrize('size', [64, 32, 16, 24])
def test_all_readers_are_equal_to_the_bit(tmp_path, slope, coding, size):
    bits,signed,intercept = coding
    rng = np.random.default_rng(1)
    ds = loaded(write_dicom(tmp_path/'x', np.zeros((64, 64), int)).read_bytes())
    ds.BitsStored,ds.HighBit,ds.PixelRepresentation = bits, bits-1, signed
    lo,hi = (-1 << bits-1, 1 << bits-1) if signed else (0, 1 << bits)
    ds.PixelData = rng.integers(lo, hi, 64*64).astype('<i4').astype('<u2' if not signed else '<i2').tobytes()
    ds.RescaleSlope,ds.RescaleIntercept = slope, intercept
    (tmp_path/'x').write_bytes(saved(ds))
    batch = SliceReader(scan(tmp_path), size).read([0])
    assert np.array_equal(batch.hu(size)[0,0].numpy(), read_slice(tmp_path/'x', size)[0].numpy())
    if size == 64: assert np.array_equal(batch.hu(size)[0,0].numpy(), read_hu(tmp_path/'x', np.int16))
    assert np.array_equal(read_hu(tmp_path/'x', np.float64), to_hu(stored_pixels(ds), slope, intercept, dtype=np.float64))

# frames

@pytest.fixture(scope='module')
def frames():
    ph = phantom_study(seed=5, size=64, n_slices=12)
    return ph.hu[:6].astype(np.int16), [5., 10, 20, 15, 0, 25], [-1024, -1000, 0, -1024, 7, -8]

@pytest.mark.parametrize('uid', [None, RLELossless, JPEG2000Lossless], ids=lambda u: getattr(u, 'keyword', 'plain'))
@pytest.mark.parametrize('shared', [False, True])
def test_each_frame_of_an_enhanced_file_is_a_slice(frames, tmp_path, uid, shared):
    hus,positions,intercepts = frames
    if shared: intercepts = [-1024]*6
    data = enhanced(hus, positions, intercepts, shared)
    if uid: data = compressed(data, uid)
    (tmp_path/'e.dcm').write_bytes(data)
    df = scan(tmp_path)
    assert df.error.isna().all() and df.frame.tolist() == list(range(6)) and df.z.tolist() == positions
    assert df.intercept.tolist() == intercepts and df.sop.tolist() == [f'1.2.3.4#{k}' for k in range(6)]
    for k in range(6):
        assert np.array_equal(read_hu(tmp_path/'e.dcm', frame=k), hus[k])
        assert np.array_equal(read_hu(loaded(data), frame=k), hus[k])
        assert 'frames' in read_dicom(tmp_path/'e.dcm', frame=k).flags
    got = SliceReader(df, 64, notes=True).read(range(6))
    assert not got.errors and np.array_equal(got.hu(64)[:,0].numpy(), hus) and len({o[0] for o in got.notes}) == 6
    assert pixel_stats(df).hu_max.tolist() == hus.max((1, 2)).tolist()
    with pytest.raises(DicomError, match='choose one with frame=0..5'): read_hu(tmp_path/'e.dcm')
    with pytest.raises(DicomError, match='outside 0..5'): read_hu(tmp_path/'e.dcm', frame=6)

def test_an_enhanced_file_of_one_frame_needs_no_number(frames, tmp_path):
    hus,positions,intercepts = frames
    (tmp_path/'e.dcm').write_bytes(enhanced(hus[:1], positions[:1], intercepts[:1]))
    assert np.array_equal(read_hu(tmp_path/'e.dcm'), hus[0]) and scan(tmp_path).frame.tolist() == [0]

def test_a_rescale_that_is_given_twice_is_refused(frames):
    hus,positions,intercepts = frames
    data = enhanced(hus, positions, intercepts, RescaleIntercept=-1024, RescaleSlope=1)
    _refused(data, 'rescale intercept is given twice')
    _read_frame = read_hu(enhanced(hus, positions, [-1024]*6, RescaleIntercept=-1024, RescaleSlope=1), frame=2)
    assert np.array_equal(_read_frame, hus[2])

def test_frames_and_groups_that_do_not_fit_are_refused(frames):
    hus,positions,intercepts = frames
    ds = loaded(enhanced(hus, positions, intercepts))
    ds.NumberOfFrames = 5
    _refused(saved(ds), 'functional groups of 6 frames, 5 are declared')
    ds = loaded(enhanced(hus, positions, intercepts))
    ds.PixelData = ds.PixelData[:-64*64*2]
    _refused(saved(ds), 'truncated')

def test_a_changed_enhanced_file_is_not_misread(frames, tmp_path):
    hus,positions,intercepts = frames
    (tmp_path/'e.dcm').write_bytes(enhanced(hus, positions, intercepts))
    reader = SliceReader(scan(tmp_path), 64)
    (tmp_path/'e.dcm').write_bytes(enhanced(hus, positions, intercepts, PatientComments='longer than before'))
    assert set(reader.read(range(6)).errors) == set(range(6))

# what reaches the network

def test_padding_is_air_for_the_network_and_for_no_statistic(hu, tmp_path):
    stored = hu.copy()
    corner = np.zeros_like(stored, bool)
    corner[:10,:10] = corner[-10:,-10:] = True
    stored[corner] = 3071
    write_dicom(tmp_path/'p', stored, (12, 0, -1024), PixelPaddingValue=4095)
    assert np.array_equal(read_hu(tmp_path/'p'), stored), 'HU are as they are stored'
    want = np.where(corner, AIR_HU, stored)
    assert np.array_equal(upright_hu(tmp_path/'p'), want)
    df = scan(tmp_path)
    assert (df.padding_low[0], df.padding_high[0]) == (4095, 4095)
    assert np.array_equal(SliceReader(df, 64).read([0]).hu(64)[0,0].numpy(), want)
    s = pixel_stats(df).iloc[0]
    assert s.hu_max == stored[~corner].max() and s.hu_mean == pytest.approx(stored[~corner].mean())
    assert 'hu_range' not in read_dicom(tmp_path/'p').flags

def test_a_range_of_padding(hu, tmp_path):
    stored = hu.copy()
    stored[:5],stored[5:9] = -2000, -1500
    write_dicom(tmp_path/'p', stored, (16, 1, 0), PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1400)
    assert (upright_hu(tmp_path/'p')[:9] == AIR_HU).all()
    assert np.array_equal(SliceReader(scan(tmp_path), 64).read([0]).hu(64)[0,0].numpy(), upright_hu(tmp_path/'p'))

def test_padding_that_tissue_has_is_not_used(hu, tmp_path):
    write_dicom(tmp_path/'p', hu, (16, 1, 0), PixelPaddingValue=0)
    assert read_dicom(tmp_path/'p').flags == ['padding'] and np.array_equal(upright_hu(tmp_path/'p'), hu)

@pytest.mark.parametrize('axis', [0, 1])
def test_pixels_that_are_not_square_get_their_proportions(tmp_path, axis):
    hu = phantom_study(seed=8, size=128, n_slices=24).hu[12].astype(np.int16)
    flat = hu[::2] if axis == 0 else hu[:,::2]
    spacing = [2., 1.] if axis == 0 else [1., 2.]
    write_dicom(tmp_path/'f', flat, PixelSpacing=spacing)
    seen = upright_hu(tmp_path/'f')
    assert seen.shape == (128, 128) and read_dicom(tmp_path/'f').flags == ['aspect']
    inside = (hu > -200) & (seen > -200)
    assert inside.sum() > .95*(hu > -200).sum() # the head lies where it lay
    assert np.array_equal(SliceReader(scan(tmp_path), 128).read([0]).hu(128)[0,0].numpy(), seen)
    ds = loaded((tmp_path/'f').read_bytes())
    del ds.PixelSpacing
    ds.PixelAspectRatio = [2, 1] if axis == 0 else [1, 2]
    assert np.array_equal(upright_hu(saved(ds)), seen)
