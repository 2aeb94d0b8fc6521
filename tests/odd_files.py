"Files of a head that are old or odd, made by code, and the Hounsfield units that they should give"
import bz2, gzip, io, lzma, struct, warnings
from pathlib import Path
import numpy as np, pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1
from rsna_ich.phantom.files import write_dicom
from tests.fuzz.seeds import elements, jpeg_lossless

def saved(ds, **kwargs):
    "The bytes of a dataset"
    buf = io.BytesIO()
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds.save_as(buf, **kwargs)
    return buf.getvalue()

def loaded(data):
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        ds.walk(lambda ds, el: None)
    return ds

def good_file(folder, hu, implicit=False, **tags): return write_dicom(Path(folder)/'good.dcm', hu, implicit=implicit, **tags).read_bytes()

def element(tag, vr, value, length=None):
    "An explicit element"
    head = struct.pack('<HH', tag >> 16, tag & 0xffff) + vr
    n = len(value) if length is None else length
    return head + (struct.pack('<2xI', n) if vr in (b'SQ', b'UN', b'OB', b'OW') else struct.pack('<H', n)) + value

def item(value, length=None): return struct.pack('<HHI', 0xFFFE, 0xE000, len(value) if length is None else length) + value

SEQUENCE_END = struct.pack('<HHI', 0xFFFE, 0xE0DD, 0)
ITEM_END = struct.pack('<HHI', 0xFFFE, 0xE00D, 0)
OPEN = 0xFFFFFFFF

def with_elements(data, tag, more):
    "An explicit file with bytes put in before its first element of `tag` or a higher one"
    at = next(o.start for o in elements(data, False) if o.tag >= tag)
    return data[:at] + more + data[at:]

def without_meta(data, implicit):
    "Preamble, mark and meta information, and the dataset behind them"
    at = next(o.start for o in elements(data, implicit) if o.tag >> 16 != 2)
    return data[:132], data[132:at], data[at:]

def with_syntax(data, uid):
    ds = loaded(data)
    old = str(ds.file_meta.TransferSyntaxUID).encode()
    at = data.index(element(0x00020010, b'UI', old + b'\0'*(len(old)%2)))
    new = element(0x00020010, b'UI', uid.encode() + b'\0'*(len(uid)%2))
    meta_end = next(o.start for o in elements(data, uid == ImplicitVRLittleEndian or old == str(ImplicitVRLittleEndian).encode()) if o.tag >> 16 != 2)
    tail = data[at+len(element(0x00020010, b'UI', old + b'\0'*(len(old)%2))):meta_end]
    return data[:at] + new + tail + data[meta_end:]

def compressed(data, uid):
    ds = loaded(data)
    with pydicom.config.disable_value_validation(): ds.compress(uid, generate_instance_uid=False)
    return saved(ds)

def repacked(data, frame_pieces, **tags):
    "A compressed file whose only frame lies in these pieces"
    ds = loaded(data)
    ds.PixelData = b''.join([item(b''), *map(item, frame_pieces)])
    for k,v in tags.items(): setattr(ds, k, v)
    return saved(ds)

def frame_of(data):
    "The only frame of a compressed file"
    px = loaded(data).PixelData
    start = 8 + struct.unpack_from('<I', px, 4)[0]
    n, = struct.unpack_from('<I', px, start+4)
    return px[start+8:start+8+n]

def in_boxes(stream, rows, cols, bits, signed):
    "A JPEG 2000 stream as a JP2 file"
    def box(kind, value): return struct.pack('>I4s', 8+len(value), kind) + value
    header = struct.pack('>IIHBBBB', rows, cols, 1, bits-1 | signed << 7, 7, 0, 0)
    colour = struct.pack('>BBBI', 1, 0, 0, 17)
    return box(b'jP  ', b'\r\n\x87\n') + box(b'ftyp', b'jp2 \0\0\0\0jp2 ') + box(b'jp2h', box(b'ihdr', header) + box(b'colr', colour)) + box(b'jp2c', stream)

def known_length(data):
    "Compressed pixels under their length in place of an open one"
    at = data.rindex(b'\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff')
    return data[:at+8] + struct.pack('<I', len(data)-at-12) + data[at+12:]

def wide(data, signed):
    "32 bits a pixel"
    ds = loaded(data)
    px = np.frombuffer(ds.PixelData, '<i2').astype('<i4')
    ds.BitsAllocated,ds.BitsStored,ds.HighBit,ds.PixelRepresentation = 32, 32, 31, int(signed)
    ds.PixelData = (px if signed else (px + 5000).astype('<u4')).tobytes()
    if not signed: ds.RescaleIntercept = float(ds.RescaleIntercept) - 5000
    return saved(ds)

def with_more_pixel_bytes(data, more):
    "PixelData longer than the pixels are"
    last = elements(data, False)[-1]
    n = len(data) - last.stop - 12
    return data[:last.stop+8] + struct.pack('<I', n+len(more)) + data[last.stop+12:] + more

def _legacy_group(**values):
    inner = Dataset()
    for k,v in values.items(): setattr(inner, k, v)
    return Sequence([inner])

def enhanced(hus, positions, intercepts, shared_rescale=False, orientation=(1, 0, 0, 0, 1, 0), spacing=2., **tags):
    "An enhanced CT file: [n,rows,cols] HU, [n] mm along z, and a rescale intercept for each frame"
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = '1.2.840.10008.5.1.4.1.1.2.1'
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = '1.2.3.4'
    ds.Modality,ds.PatientID,ds.StudyInstanceUID,ds.SeriesInstanceUID = 'CT', 'P1', '1.1', '1.2'
    ds.ImageType = ['ORIGINAL', 'PRIMARY', 'VOLUME', 'NONE']
    ds.SamplesPerPixel,ds.PhotometricInterpretation,ds.NumberOfFrames = 1, 'MONOCHROME2', len(hus)
    ds.Rows,ds.Columns = hus.shape[1:]
    ds.BitsAllocated,ds.BitsStored,ds.HighBit,ds.PixelRepresentation = 16, 16, 15, 1
    shared,each = Dataset(), []
    shared.PlaneOrientationSequence = _legacy_group(ImageOrientationPatient=list(orientation))
    shared.PixelMeasuresSequence = _legacy_group(PixelSpacing=[spacing, spacing], SliceThickness=5.)
    if shared_rescale: shared.PixelValueTransformationSequence = _legacy_group(RescaleIntercept=intercepts[0], RescaleSlope=1, RescaleType='HU')
    for z,b in zip(positions, intercepts):
        one = Dataset()
        one.PlanePositionSequence = _legacy_group(ImagePositionPatient=[0, 0, float(z)])
        if not shared_rescale: one.PixelValueTransformationSequence = _legacy_group(RescaleIntercept=b, RescaleSlope=1, RescaleType='HU')
        each.append(one)
    ds.SharedFunctionalGroupsSequence,ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(each)
    for k,v in tags.items(): setattr(ds, k, v)
    ds.PixelData = (hus - np.array(intercepts)[:,None,None]).astype('<i2').tobytes()
    return saved(ds, enforce_file_format=True)

def packed(data): return dict(gz=gzip.compress(data), bz2=bz2.compress(data), xz=lzma.compress(data))

def lossless_8_bits(folder, hu, stored):
    "8 bits of JPEG lossless under a header that allocates 16; the file and its HU"
    px = np.clip((np.asarray(hu, int)+1000)//8, 0, 255).astype(np.uint8)
    ds = loaded(good_file(folder, hu))
    ds.BitsStored,ds.HighBit,ds.PixelRepresentation,ds.RescaleSlope,ds.RescaleIntercept = stored, stored-1, 0, 8, -1000
    ds.PixelData,ds.file_meta.TransferSyntaxUID = encapsulate([jpeg_lossless(px, 8)]), JPEGLosslessSV1
    ds['PixelData'].VR = 'OB'
    return saved(ds), px*8.-1000
