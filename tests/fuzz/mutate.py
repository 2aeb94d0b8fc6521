"Ways to damage a DICOM file, from single bits to elements that say another plausible thing"
import struct
from collections import namedtuple
from pydicom.uid import AllTransferSyntaxes
from tests.fuzz.seeds import deflated

Mutant = namedtuple('Mutant', 'data kind pixels') # pixels: were any bytes of the pixel data (or of a deflated stream) touched?

_SIZES = (0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 127, 128, 255, 256, 512, 4095, 4096, 4097, 0x7fff, 0x8000, 0xfffe, 0xffff)
_LENGTHS = (*_SIZES, 0x10000, 0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffffe, 0xffffffff)
_VRS = b'AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV'.split()
_US = dict(rows=0x00280010, cols=0x00280011, allocated=0x00280100, stored=0x00280101, high=0x00280102, signed=0x00280103, samples=0x00280002)
_BITS = (*range(1, 18), 24, 32, 64, 255)
_NUMBERS = {**{_US[k]:_SIZES for k in ('rows', 'cols', 'samples')}, **{_US[k]:_BITS for k in ('allocated', 'stored', 'high')}, _US['signed']:(0, 1, 2, 255, 256, 65535)}
_TEXTS = {0x00281052:'-1024 -1000 0 1 -1 -1023 -1025 -8192 -2048 1024 1000 -32768 32767 40000 nan inf -inf 1e400 -1e3 -1.024e3 -1024.5 1_024 0x400 - . -1024\\0 --1024'.split() + ['', ' ', '1 0', '\u0661'],
    0x00281053:'1 1.0 1e0 +1 01 2 0 -1 0.5 1.0001 0.9999 1e-9 1e9 1e400 nan inf 1\\2 1_0 one 1.. -0'.split() + ['', ' '], 0x00280008:'0 1 2 -1 1.5 1e9 99999999999 nan 1\\2'.split() + [''],
    0x00080060:'CT MR ct CR SEG CT\\MR CANARY'.split() + [''], 0x00280004:'MONOCHROME1 MONOCHROME2 RGB YBR_FULL CANARY'.split() + ['PALETTE COLOR', ''],
    0x00281054:'HU US ED OD CANARY'.split(), 0x00282110:'00 01'.split(), 0x00020010:[str(o) for o in AllTransferSyntaxes] + ['1.2.3', 'CANARY', '']}
_TAGS = (*_NUMBERS, *_TEXTS, 0x7FE00010, 0x7FE00008, 0x00283000, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00020010, 0, 0xFFFFFFFF)

def _flip(d, s, top, rng):
    for _ in range(rng.choice((1, 1, 1, 2, 4))): d[rng.randrange(top)] ^= 1 << rng.randrange(8)

def _bytes(d, s, top, rng):
    for _ in range(rng.choice((1, 1, 2, 4))): d[rng.randrange(top)] = rng.choice((0, 1, 0x20, 0x2d, 0x30, 0x39, 0x5c, 0x7f, 0x80, 0xff, rng.randrange(256)))

def _words(d, s, top, rng):
    at,(f,n) = rng.randrange(top-4), rng.choice((('<H', 2), ('<I', 4), ('>H', 2), ('>I', 4)))
    d[at:at+n] = struct.pack(f, rng.choice(_LENGTHS) & (1 << 8*n)-1)

def _cut(d, s, top, rng): del d[rng.randrange(top):]

def _delete(d, s, top, rng):
    at = rng.randrange(top)
    del d[at:min(top, at+rng.choice((1, 2, 4, 8, rng.randrange(1, 64))))]

def _insert(d, s, top, rng):
    at,n = rng.randrange(top), rng.choice((1, 2, 4, 8, rng.randrange(1, 64)))
    d[at:at] = rng.choice((bytes(n), b'\xff'*n, rng.randbytes(n), d[at:at+n]))

def _copy(d, s, top, rng):
    a,b,n = rng.randrange(top), rng.randrange(top), rng.randrange(1, 64)
    piece = d[a:min(a+n, top)]
    d[b:min(b+len(piece), top)] = piece[:max(top-b, 0)]

def _length(d, s, top, rng):
    el = rng.choice(s.elements)
    f,n = ('<I', 4) if el.wide else ('<H', 2)
    old = struct.unpack_from(f, d, el.value-n)[0]
    struct.pack_into(f, d, el.value-n, rng.choice((old-2, old-1, old+1, old+2, old+4, old*2, len(d), len(d)-el.value, rng.choice(_LENGTHS))) & (1 << 8*n)-1)

def _element(s, tag, vr, value):
    head = struct.pack('<HH', tag >> 16, tag & 0xffff)
    if s.implicit and tag >> 16 != 2: return head + struct.pack('<I', len(value)) + value
    return head + vr + (struct.pack('<HI', 0, len(value)) if vr in (b'SQ', b'OW', b'OB', b'UN') else struct.pack('<H', len(value))) + value

def _put(d, s, tag, vr, value):
    "Give the element `tag` another value, or put it where it belongs"
    at = next((o for o in s.elements if o.tag >= tag), None)
    start = at.start if at else len(d) if not s.elements else s.elements[-1].stop
    d[start:at.stop if at and at.tag == tag else start] = _element(s, tag, vr, value)

def _value(d, s, top, rng):
    tag = rng.choice((*_NUMBERS, *_TEXTS, 0x00281052, 0x00281053))
    if tag >> 16 == 2 and s.elements[0].tag >> 16 != 2: tag = 0x00281052
    if tag in _NUMBERS:
        n = rng.choice(_NUMBERS[tag])
        if tag in (_US['stored'], _US['high']) and rng.random() < .5:
            # two elements that agree with each other; the later one first, so that offsets stay true
            n = max(n, 1)
            _put(d, s, _US['high'], b'US', struct.pack('<H', n-1))
            tag = _US['stored']
        return _put(d, s, tag, b'US', struct.pack('<H', n))
    text = str(rng.randrange(-3000, 3000)) if tag == 0x00281052 and rng.random() < .3 else rng.choice(_TEXTS[tag])
    text = text.encode()
    vr = {0x00020010:b'UI', 0x00281052:b'DS', 0x00281053:b'DS', 0x00280008:b'IS', 0x00281054:b'LO'}.get(tag, b'CS')
    _put(d, s, tag, vr, text + (b'\0' if vr == b'UI' else b' ')*(len(text)%2))

def _remove(d, s, top, rng):
    el = rng.choice(s.elements)
    del d[el.start:el.stop]

def _repeat(d, s, top, rng):
    el,at = rng.choice(s.elements), rng.choice(s.elements).start
    d[at:at] = d[el.start:el.stop]

def _swap(d, s, top, rng):
    i = rng.randrange(len(s.elements)-1)
    a,b = s.elements[i:i+2]
    d[a.start:b.stop] = d[b.start:b.stop] + d[a.start:a.stop]

def _vr(d, s, top, rng):
    el = rng.choice(s.elements)
    d[el.start+4:el.start+6] = rng.choice(_VRS)

def _tag(d, s, top, rng):
    el,tag = rng.choice(s.elements), rng.choice(_TAGS)
    struct.pack_into('<HH', d, el.start, tag >> 16, tag & 0xffff)

def _nest(d, s, top, rng):
    depth,closed = rng.choice((1, 50, 99, 101, 600, 2000)), rng.random() < .5
    one = struct.pack('<HH', 0x0040, 0xA730) + (b'' if s.implicit else b'SQ\0\0') + b'\xff'*4 + struct.pack('<HHI', 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack('<HHIHHI', 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    at = rng.choice(s.elements).start
    d[at:at] = one*depth + (end*depth if closed else b'')

_ANY = (_flip, _bytes, _words, _cut, _delete, _insert, _copy)
_HEADER = (_flip, _bytes, _words, _delete, _insert, _copy, _length, _value, _value, _value, _remove, _repeat, _swap, _vr, _tag, _nest)

def mutate(seed, rng):
    "One mutant of `seed`: its header only, three times in five, or any of its bytes"
    while True:
        header,inner = rng.random() < .6, seed.body is not None and rng.random() < .6
        src = seed.body if inner else seed
        way,d = rng.choice(_HEADER if header else _ANY), bytearray(src.data)
        way(d, src, src.header if header else len(d), rng)
        if d != src.data: break
    return Mutant(deflated(seed, bytes(d)) if inner else bytes(d), way.__name__[1:], not header)
