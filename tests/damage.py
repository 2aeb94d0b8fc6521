"Changes to the bytes of a file, for hypothesis"
import struct
from hypothesis import strategies as st

@st.composite
def damage(draw):
    "A function that changes bytes of a file's header"
    kind,where,value = draw(st.sampled_from('byte word cut insert drop copy'.split())),draw(st.floats(0, 1)),draw(st.integers(0, 2**32-1))
    length = draw(st.integers(1, 40))
    def change(b):
        i = int(128 + where*(len(b)-512-128))
        if kind == 'byte': return b[:i] + bytes([value & 255]) + b[i+1:]
        if kind == 'word': return b[:i] + struct.pack('<I', value if value & 1 else draw_word(value)) + b[i+4:]
        if kind == 'cut': return b[:i]
        if kind == 'insert': return b[:i] + bytes([value & 255])*length + b[i:]
        if kind == 'drop': return b[:i] + b[i+length:]
        return b[:i] + b[i:i+length]*2 + b[i+length:]
    return change

def draw_word(v): return (0, 1, 2, 0xFFFFFFFF, 0x7FFFFFFF, 0x00280010, 0xE0007FE0, 0xFFFEE0DD)[v//2 % 8]
