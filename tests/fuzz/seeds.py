"Good files in seven transfer syntaxes, without meta information and as an enhanced file of one frame; and where in them what stands"
import io, struct, tempfile, warnings, zlib
from collections import namedtuple
from pathlib import Path
import numpy as np, pydicom
from pydicom import config
from pydicom.encaps import encapsulate
from pydicom.filereader import data_element_generator
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless
from rsna_ich.dicom.door import read_hu
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import write_dicom

SYNTAXES = dict(explicit=None, implicit=None, rle=RLELossless, j2k=JPEG2000Lossless, jpegls=JPEGLSLossless, jpegll=JPEGLosslessSV1,
    deflated=DeflatedExplicitVRLittleEndian, bare=None, enhanced=None)
CODINGS = ((16, 1, -1024, None), (16, 1, -1024, -2000), (12, 0, -1024, None), (12, 0, -1000, None), (16, 1, 0, None), (12, 1, 0, None))
CANARY = 'CANARY'

Element = namedtuple('Element', 'tag start value stop wide') # of a header: its offsets, and whether its length has four bytes
Seed = namedtuple('Seed', 'name data header elements implicit words hu body') # header: bytes before the pixels; words: [rows,cols] as stored
Body = namedtuple('Body', 'data header elements implicit') # what a deflated file inflates to

def jpeg_lossless(px, bits):
    "The rows of `px` (unsigned) as JPEG lossless, first-order prediction, one table in which each of 17 symbols has 5 bits"
    px = px.astype(np.int64)
    left = np.concatenate([np.concatenate([[1 << bits-1], px[:-1,0]])[:,None], px[:,:-1]], 1)
    out = ''
    for d in ((px - left + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        n = 16 if d == -(1 << 15) else abs(d).bit_length()
        out += f'{n:05b}' + (f'{d if d > 0 else d + (1 << n) - 1:0{n}b}' if 0 < n < 16 else '')
    out += '1'*(-len(out)%8)
    data = int(out, 2).to_bytes(len(out)//8, 'big').replace(b'\xff', b'\xff\0')
    part = lambda mark, body: struct.pack('>HH', mark, len(body)+2) + body
    return (b'\xff\xd8' + part(0xFFC3, struct.pack('>BHHB3B', bits, *px.shape, 1, 1, 0x11, 0)) + part(0xFFC4, bytes([0, *[0]*4, 17, *[0]*11, *range(17)]))
        + part(0xFFDA, bytes([1, 1, 0, 1, 0, 0])) + data + b'\xff\xd9')

def _rich(ds):
    "Text that must never come out, private elements, and sequences in sequences"
    for k in 'PatientName PatientComments InstitutionName StudyDescription OperatorsName AccessionNumber'.split(): setattr(ds, k, f'{CANARY}^{k[:4]}')
    ds.PatientBirthDate,ds.SpecificCharacterSet,ds.RescaleType = '19010203', 'ISO_IR 100', 'HU'
    ds.private_block(0x0009, CANARY, create=True).add_new(1, 'LO', CANARY)
    inner = pydicom.Dataset()
    inner.CodeValue,inner.CodeMeaning = 'T-D1100', CANARY
    outer = pydicom.Dataset()
    outer.ConceptNameCodeSequence,outer.ReferencedSOPInstanceUID = [inner], '1.2.3'
    outer.is_undefined_length_sequence_item = True
    ds.ReferencedImageSequence,ds.ProcedureCodeSequence = [outer, outer], [inner]
    ds['ReferencedImageSequence'].is_undefined_length = True

def _into_groups(ds):
    "What an enhanced file keeps in functional groups is put there"
    def group(*keywords):
        inner = pydicom.Dataset()
        for k in keywords:
            setattr(inner, k, getattr(ds, k))
            delattr(ds, k)
        return pydicom.sequence.Sequence([inner])
    shared,each = pydicom.Dataset(), pydicom.Dataset()
    shared.PlaneOrientationSequence,shared.PixelMeasuresSequence = group('ImageOrientationPatient'), group('PixelSpacing')
    each.PixelValueTransformationSequence,each.PlanePositionSequence = group('RescaleIntercept', 'RescaleSlope'), group('ImagePositionPatient')
    ds.NumberOfFrames = 1
    ds.SharedFunctionalGroupsSequence,ds.PerFrameFunctionalGroupsSequence = [shared], [each]

def _compress(ds, uid, words, bits):
    if uid == DeflatedExplicitVRLittleEndian: ds.file_meta.TransferSyntaxUID = uid
    elif uid == JPEGLosslessSV1:
        ds.PixelData,ds.file_meta.TransferSyntaxUID = encapsulate([jpeg_lossless(words.view(np.uint16) & (1 << bits)-1, bits)]), uid
    elif uid: ds.compress(uid, generate_instance_uid=False)

def elements(data, implicit):
    "The top-level elements of a file, or of a dataset that begins at byte 0, as pydicom finds them"
    f,res = io.BytesIO(data),[]
    if data[128:132] == b'DICM':
        f.seek(132)
        res = _span(f, False, lambda tag, vr, n: tag.group != 2)
        f.seek(res[-1].stop)
        if b'1.2.840.10008.1.2.1.99' in data[:f.tell()]: return res
    return res + _span(f, implicit, lambda tag, vr, n: tag == 0x7FE00010)

def _span(f, implicit, stop):
    res = []
    while True:
        start = f.tell()
        el = next(data_element_generator(f, implicit, True, stop), None)
        if el is None: return res
        wide = implicit or getattr(el, 'VR', None) in ('OB', 'OW', 'SQ', 'UN', 'UT')
        res.append(Element(int(el.tag), start, start + (8 if implicit or not wide else 12), f.tell(), wide))

def make_seed(hu, syntax, coding, rich):
    "One good file"
    bits,signed,intercept,padding = coding
    implicit,uid = syntax in ('implicit', 'bare'),SYNTAXES[syntax]
    with tempfile.TemporaryDirectory() as d, warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(write_dicom(Path(d)/'a', hu, coding=coding[:3], implicit=implicit, padding=padding), force=True)
        words = np.frombuffer(ds.PixelData, '<i2' if signed else '<u2').reshape(hu.shape)
        if rich: _rich(ds)
        if syntax == 'enhanced': _into_groups(ds)
        _compress(ds, uid, words, bits)
        buf = io.BytesIO()
        ds.save_as(buf)
    data,body = buf.getvalue(),None
    if syntax == 'bare': data = data[next(o.start for o in elements(data, True) if o.tag >> 16 != 2):]
    if syntax == 'deflated':
        found = elements(data, False)
        inside = zlib.decompress(data[found[-1].stop:], -zlib.MAX_WBITS)
        inner = elements(inside, False)
        header,body = found[-1].stop, Body(inside, inner[-1].stop + 12, inner, False)
    else:
        found = elements(data, implicit)
        header = found[-1].stop + (8 if implicit else 12)
    return Seed(f"{bits}{'us'[signed]}{intercept}{'p' if padding else ''}{'r' if rich else ''}", data, header, found, implicit, words, read_hu(data), body)

def deflated(seed, body):
    "The file of `seed` with another body"
    z = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = z.compress(body) + z.flush()
    return seed.data[:seed.header] + data + b'\0'*(len(data)%2)

def make_seeds(syntax):
    "The seeds of one transfer syntax: six codings, two sizes, plain and rich headers"
    ph = phantom_study(seed=8, size=64, n_slices=24)
    slices = [ph.hu[i] for i in (6, 10, 14)] + [ph.hu[i][::2,::2] for i in (8, 12, 16)]
    return [make_seed(hu, syntax, c, rich=i%2) for i,(hu,c) in enumerate(zip(slices, CODINGS))]
