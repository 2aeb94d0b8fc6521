"Hounsfield units against pydicom, on real files, on every coding, and on files that must be refused"
import io, os, resource, signal, struct, subprocess, sys, time, traceback, warnings, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pydicom, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from rsna_ich.dicom import decoder as decoder_module
from rsna_ich.dicom.codecs import check_frame, pixel_fragments
from rsna_ich.dicom.decoder import decoder
from rsna_ich.dicom import display # gives paths their method show; chkstyle: ignore
from rsna_ich.dicom.files import is_dicom
from rsna_ich.core.errors import DicomError
from rsna_ich.dicom.files import get_dicom_files
from rsna_ich.dicom.elements import read_header
from rsna_ich.dicom.fields import header_value
from rsna_ich.dicom.hounsfield import broken_coding, to_hu
from rsna_ich.dicom.checks import FLAGS
from rsna_ich.dicom.stored import stored_pixels
from rsna_ich.dicom.door import read_dicom, read_hu
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import write_dicom

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

def test_no_real_file_is_flagged(real): assert [(p.name, ds.flags) for p in (real/'dicom').iterdir() if (ds := read_dicom(p)).flags] == []

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

def test_every_bundled_header_equals_pydicoms():
    "All elements before the pixels, private ones and those in sequences as well"
    paths,n = [p for p in sorted((Path(pydicom.__file__).parent/'data').rglob('*')) if is_dicom(p)],0
    for path in paths:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter('ignore')
            try: ours = read_header(path)
            except DicomError: continue
            plain = lambda ds: [(e.tag, e.VR, e.VM, str(e.value) if e.VR != 'SQ' else '') for e in ds.iterall() if e.tag < 0x7FE00010]
            assert plain(ours) == plain(pydicom.dcmread(path, stop_before_pixels=True, force=True)), path.name
            n += 1
    assert n > .9*len(paths) > 100

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
    hu[0] = -1000 # air, which shows that a coding is broken
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
    (dict(BitsStored=17, HighBit=16), "don't fit together"), (dict(HighBit=3), "don't fit together"), (dict(BitsStored=8), "don't fit together"), (dict(BitsAllocated=32), '64x64 at 32 bits needs 16384'), (dict(BitsAllocated=24), '24 bits allocated'),
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

@pytest.mark.parametrize('bad', [dict(RescaleSlope='0'), dict(Modality='CANARY'), dict(PhotometricInterpretation='CANARY'), dict(SamplesPerPixel=3)])
def test_no_patient_text_in_an_error(tmp_path, bad):
    path = _slice(tmp_path, **dict(PatientName='CANARY^NAME', PatientID='CANARY-ID', StudyID='CANARY') | bad)
    with pytest.raises(DicomError) as e: read_dicom(path)
    assert 'CANARY' not in ''.join(traceback.format_exception(e.value))

@pytest.mark.parametrize('tag', ['RescaleSlope', 'RescaleIntercept', 'NumberOfFrames'])
def test_no_number_that_may_be_a_birthday(tmp_path, tag):
    date = '-'.join(['1901', '02', '03']).replace('-', '') # so that it isn't in this source, which a traceback shows
    with pytest.raises(DicomError) as e: read_dicom(_slice(tmp_path, **{tag:date}))
    text = ''.join(traceback.format_exception(e.value))
    assert date not in text and f'{int(date):g}' not in text

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

# Files made to harm, or harmed

HEAD = phantom_study(seed=8, size=64, n_slices=24).hu[12]
OPEN = b'\xff'*4

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "The bytes of a slice that reads without a flag"
    data = write_dicom(tmp_path_factory.mktemp('good')/'a', HEAD, padding=-2000).read_bytes()
    assert read_dicom(data).flags == []
    return data

def _element(tag, vr, value): return struct.pack('<HH2sH', tag >> 16, tag & 0xffff, vr, len(value)) + value

def _saved(data, uid=None, **tags):
    "`data` in another transfer syntax, with other values, as pydicom writes it"
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter('ignore')
        ds,buf = pydicom.dcmread(io.BytesIO(data)),io.BytesIO()
        for k,v in tags.items(): setattr(ds, k, v)
        if uid in (RLELossless, JPEG2000Lossless): ds.compress(uid, generate_instance_uid=False)
        elif uid: ds.file_meta.TransferSyntaxUID = uid
        ds.save_as(buf)
    return buf.getvalue()

def _refused(data, says):
    with pytest.raises(DicomError) as e: read_dicom(data)
    assert says in str(e.value) and str(e.value).startswith('<bytes>: ')

def _before_pixels(good, extra):
    "`good` with bytes put in where group 0040 goes"
    at = good.index(b'\xe0\x7f\x10\0OW')
    return good[:at] + extra + good[at:]

SQ,ITEM = b'\x40\0\x30\xa7SQ\0\0' + OPEN, b'\xfe\xff\0\xe0' + OPEN
END = b'\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0'

@pytest.mark.parametrize('uid', [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian], ids=lambda u: u.keyword)
def test_other_transfer_syntaxes_read_the_same(good, uid):
    ds = read_dicom(_saved(good, uid))
    assert np.array_equal(read_hu(ds), read_hu(good)) and ds.flags == [] and ds.pixel_offset is None

def test_a_program_in_the_preamble_is_never_copied(good, tmp_path):
    data = b'MZ' + b'\x90'*126 + good[128:]
    assert np.array_equal(read_hu(data), read_hu(good))
    read_dicom(data).save_as(tmp_path/'copy')
    assert (tmp_path/'copy').read_bytes()[:128] == bytes(128)

@pytest.mark.parametrize('depth,ok', [(1, True), (100, True), (101, False), (600, False), (30_000, False)])
@pytest.mark.parametrize('closed', [True, False])
def test_deep_sequences(good, depth, ok, closed):
    data = _before_pixels(good, (SQ+ITEM)*depth + END*depth*closed)
    if ok and closed: assert np.array_equal(read_hu(data), read_hu(good))
    else: _refused(data, 'nested more than 100 deep' if not ok else '')

def test_a_deep_sequence_of_known_length(good):
    inner = b''
    for _ in range(150): inner = b'\x40\0\x30\xa7SQ\0\0' + struct.pack('<I', len(inner)+8) + b'\xfe\xff\0\xe0' + struct.pack('<I', len(inner)) + inner
    _refused(_before_pixels(good, inner), 'nested more than 100 deep')

def test_an_endless_sequence(good):
    _refused(_before_pixels(good, SQ + (b'\xfe\xff\0\xe0' + bytes(4))*300_000), 'elements in the header')
    _refused(_before_pixels(good, SQ), 'damaged')

@pytest.mark.parametrize('claims', [1, 0xfffffff0, 0xfffffffe, 0xffffffff])
def test_false_lengths(good, claims): _refused(_before_pixels(good, b'\x41\0\0\x10OB\0\0' + struct.pack('<I', claims)), '')

def _declared(good, uid): return good.replace(b'1.2.840.10008.1.2.1\0', uid.encode().ljust(20, b'\0'))

@pytest.mark.parametrize('wrong', ['1.2.840.10008.1.2.5', '1.2.840.10008.1.2.7'])
def test_a_wrong_transfer_syntax(good, wrong): _refused(_declared(good, wrong), '')

@pytest.mark.parametrize('wrong', ['1.2.840.10008.1.2', '1.2.840.10008.1.2.2'])
def test_a_wrong_plain_transfer_syntax_is_seen_through(good, wrong):
    ds = read_dicom(_declared(good, wrong))
    assert 'syntax' in ds.flags and np.array_equal(read_hu(ds), read_hu(good))
    _refused(_declared(good, wrong)[:-100], 'cut off')

def test_a_wrong_transfer_syntax_for_compressed_pixels(good):
    rle = _saved(good, RLELossless)
    _refused(rle.replace(b'1.2.840.10008.1.2.5\0', b'1.2.840.10008.1.2.1\0'), 'compressed pixels under a transfer syntax for plain ones')
    _refused(rle.replace(b'1.2.840.10008.1.2.5\0\2', b'1.2.840.10008.1.2.4.90\2').replace(b'\x02\0\x10\0UI\x14', b'\x02\0\x10\0UI\x16'), 'no JPEG 2000')

def test_an_element_that_is_there_twice(good):
    _refused(_before_pixels(good, _element(0x00281052, b'DS', b'-1000 ')), '(0028,1052) is there twice')

@pytest.mark.parametrize('tags,flags', [(dict(RescaleSlope='2'), ['slope']), (dict(RescaleIntercept='-1023'), ['intercept']), (dict(RescaleIntercept='0'), ['hu_range', 'no_air']),
    (dict(PixelRepresentation=0), ['top_bit', 'hu_range']), (dict(BitsStored=12, HighBit=11), ['narrow', 'spare_bits']), (dict(BitsStored=8, HighBit=7), ['narrow', 'spare_bits']),
    (dict(PhotometricInterpretation='MONOCHROME1'), ['inverted']), (dict(RescaleType='ED'), ['rescale_type']), (dict(LossyImageCompression='01'), ['lossy'])])
def test_what_may_be_wrong_is_flagged(good, tags, flags):
    said = read_dicom(_saved(good, **tags)).flags
    assert set(flags) <= set(said) <= set(FLAGS)

def test_bytes_after_the_pixels(good):
    assert read_dicom(good + bytes(7)).flags == ['tail']
    padding = struct.pack('<HH2sHI', 0xFFFC, 0xFFFC, b'OB', 0, 8) + bytes(8)
    assert read_dicom(good + padding).flags == []

@pytest.mark.parametrize('text', ['-1_024', '-1024\\0', '0x400', 'nan', '1e400', '', '-40000', '\u0661'])
def test_intercepts_that_are_none(good, text):
    value = text.encode()
    value += b' '*(len(value)%2)
    _refused(good.replace(_element(0x00281052, b'DS', b'-1024 '), _element(0x00281052, b'DS', value)), 'intercept')

def test_a_deflated_bomb_stays_small(good, tmp_path):
    "4 MB that inflate to 4 GB, refused within bounds of time and memory"
    z = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = z.compress(b'\x08\0\x05\0OB\0\0' + struct.pack('<I', 0xfffffff0)) + z.flush(zlib.Z_FULL_FLUSH)
    block = z.compress(bytes(1<<24)) + z.flush(zlib.Z_FULL_FLUSH)
    meta = _saved(good, DeflatedExplicitVRLittleEndian)
    (tmp_path/'bomb').write_bytes(meta[:meta.index(b'RSNA_ICH')+8] + first + block*256)
    code = f"""
from rsna_ich.dicom.elements import read_header
try: read_header({str(tmp_path/'bomb')!r})
except Exception as e: print(type(e).__name__, e)
print(*(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmHWM')))"""
    said,kb = _python(code).splitlines()
    assert said.startswith('DicomError bomb: the deflated data grows to more than') and int(kb) < 700_000

def _python(code, timeout=120): return subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True, timeout=timeout).stdout

# Compressed pixels, and the process that decodes them

def _frame(data):
    "Where the one compressed frame of `data` begins, and its length"
    (_,(start,n)),_ = pixel_fragments(data[(at := read_header(data).pixel_span[1]):])
    return at+start, n

def _patched(data, at, new): return data[:at] + new + data[at+len(new):]

def test_an_rle_frame_of_65535_by_65535(good):
    rle = _saved(good, RLELossless)
    _refused(_saved(rle, Rows=65535, Columns=65535), 'outside 1..4096')
    _refused(_saved(rle, Rows=4096, Columns=4096), 'too short for 4096x4096')

@pytest.mark.parametrize('tags', [dict(Rows=32), dict(Columns=32), dict(Rows=65), dict(Rows=128)])
@pytest.mark.parametrize('uid', [RLELossless, JPEG2000Lossless], ids=lambda u: u.keyword)
def test_another_size_of_compressed_pixels(good, uid, tags): _refused(_saved(_saved(good, uid), **tags), 'compressed pixels are')

@pytest.mark.parametrize('at,new,says', [(0, b'\3', "doesn't fit a grey"), (4, b'\x41', "doesn't fit a grey"), (8, b'\xff\xff', 'too short'), (0, b'\xff'*64, "doesn't fit"), (64, b'\x80'*900, 'damaged')])
def test_a_damaged_rle_frame(good, at, new, says):
    rle = _saved(good, RLELossless)
    _refused(_patched(rle, _frame(rle)[0]+at, new), says)

@pytest.mark.parametrize('at,new,says', [(0, b'no', 'no JPEG 2000'), (8, struct.pack('>I', 65535), 'the compressed pixels are 64x65535'), (24, struct.pack('>II', 1, 0), 'damaged'),
    (40, b'\0\2', 'with 2 samples'), (42, b'\x9f', 'have 32 bits')])
def test_a_damaged_jpeg2000_frame(good, at, new, says):
    j2k = _saved(good, JPEG2000Lossless)
    _refused(_patched(j2k, _frame(j2k)[0]+at, new), says)

def test_tiles_without_end():
    frame = struct.pack('>4H8IH3B', 0xFF4F, 0xFF51, 41, 0, 512, 512, 0, 0, 1, 1, 0, 0, 1, 15, 1, 1)
    with pytest.raises(DicomError, match='262144 tiles'): check_frame(frame, 'j2k', 512, 512, 16, 16, 0)

def test_compressed_pixels_that_are_cut_off(good):
    rle = _saved(good, RLELossless)
    start,n = _frame(rle)
    for at in (start-12, start-3, start+n//2, len(rle)-9, len(rle)-1): _refused(rle[:at], '')
    ended = read_dicom(rle[:-8]) # only the delimiter is lost
    assert 'no_end' in ended.flags and np.array_equal(read_hu(ended), read_hu(rle))

@pytest.fixture
def server(monkeypatch):
    "Start the decoding process with other code, and stop it afterwards"
    def start(code, before='pass'):
        decoder.stop()
        monkeypatch.setattr(decoder_module, '_SERVE', f'{before}; import os, time, rsna_ich.dicom.decoder as d; {code}; d._serve()')
    yield start
    decoder.stop()

@pytest.mark.parametrize('code,says', [('d._decode = lambda *a: os.kill(os.getpid(), 11)', 'the decoder died'), ('d._decode = lambda *a: bytearray(1<<30)', 'need more than 536870912 bytes'),
    ("d._decode = lambda *a: b'short'", 'decode to 5 bytes, the header needs 8192'), ("d._answer = lambda *a: (b'?', b'')", 'damaged'),
    ('d._serve = lambda: None', "doesn't start")])
def test_a_decoder_that_fails(good, server, code, says):
    server(code)
    _refused(_saved(good, JPEG2000Lossless), says)

def test_no_decoder_is_installed(good, server):
    server('pass', before="sys.modules['pylibjpeg'] = sys.modules['rle'] = None")
    _refused(_saved(good, JPEG2000Lossless), 'install one with: pip install "pylibjpeg[all]" (the extra codecs')
    assert np.array_equal(read_hu(_saved(good, RLELossless)), read_hu(good)) # pydicom has its own for this

def test_a_decoder_that_never_ends(good, server, monkeypatch):
    server('d._decode = lambda *a: time.sleep(99)')
    monkeypatch.setattr(decoder_module, 'DECODE_SECONDS', .5)
    start = time.monotonic()
    _refused(_saved(good, RLELossless), 'more than 0.5 seconds')
    assert time.monotonic() - start < 20 and decoder.proc is None

def test_a_decoder_that_was_harmed_before_is_replaced(good, server):
    server('n,old = [],d._decode; d._decode = lambda *a: (n.append(1), os._exit(1) if len(n) > 1 else 0, old(*a))[2]')
    rle = _saved(good, RLELossless)
    for _ in range(3): assert np.array_equal(read_hu(rle), read_hu(good))

@pytest.mark.parametrize('coding', [(12, 0, -1024), (12, 1, 0)])
def test_values_beyond_the_declared_bits(server, tmp_path, coding):
    server("d._decode = lambda *a: bytes([255, 127])*4096")
    _refused(_saved(write_dicom(tmp_path/'a', HEAD, coding=coding).read_bytes(), JPEG2000Lossless), 'more than the 12 bits')

def test_many_threads_share_one_decoder(good):
    files = [_saved(good, RLELossless), _saved(good, JPEG2000Lossless)]*20
    want = read_hu(good)
    with ThreadPoolExecutor(8) as pool: assert all(np.array_equal(o, want) for o in pool.map(read_hu, files))

def test_data_loader_workers_after_threaded_torch(good, tmp_path):
    "Fork after a parallel region and a running decoder: each worker starts its own"
    for i in range(8): (tmp_path/f'{i}').write_bytes(_saved(good, RLELossless))
    code = f"""
import torch
from torch.utils.data import DataLoader
from rsna_ich.dicom.door import read_hu
files = [{str(tmp_path)!r} + f'/{{i}}' for i in range(8)]*3
torch.set_num_threads(2)
(torch.randn(800, 800) @ torch.randn(800, 800)).sum()
first = read_hu(files[0])
class Slices:
    def __len__(self): return len(files)
    def __getitem__(self, i): return torch.from_numpy(read_hu(files[i]))
res = torch.cat(list(DataLoader(Slices(), 4, num_workers=2, multiprocessing_context='fork')))
print((res == torch.from_numpy(first)).all().item(), len(res), (read_hu(files[1]) == first).all())"""
    assert _python(code).split() == ['True', '24', 'True']

def test_the_decoder_ends_with_its_parent(good, tmp_path):
    (tmp_path/'a').write_bytes(_saved(good, RLELossless))
    code = f"""
import os, signal
from rsna_ich.dicom.decoder import decoder
from rsna_ich.dicom.door import read_hu
read_hu({str(tmp_path/'a')!r})
print(decoder.proc.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)"""
    pid = int(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120).stdout)
    for _ in range(100):
        if not _alive(pid): return
        time.sleep(.1)
    pytest.fail('the decoding process outlives its parent')

def _alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError: return False

def test_the_decoder_is_bounded_by_the_system(good):
    read_hu(_saved(good, RLELossless))
    pid = decoder.proc.pid
    assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(pid, resource.RLIMIT_AS)[1] < 1<<30
    os.kill(pid, signal.SIGINT)
    assert np.array_equal(read_hu(_saved(good, RLELossless)), read_hu(good)) and decoder.proc.pid == pid

def test_no_files_are_asked_for_that_are_none(tmp_path):
    "A pipe has no end, and nobody may be at the other one"
    os.mkfifo(tmp_path/'pipe')
    with pytest.raises(DicomError, match='pipe: not a regular file'): read_dicom(tmp_path/'pipe')
    assert get_dicom_files(tmp_path) == []
