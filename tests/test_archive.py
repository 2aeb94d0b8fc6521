"Archives: the same bytes as zipfile and tarfile give, in any order and from any thread, and nothing from hostile ones but our errors"
import bz2, gzip, io, lzma, os, random, signal, stat, struct, tarfile, tracemalloc, zipfile, zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from rsna_ich.dicom import archive as A
from rsna_ich.core.errors import DataError, DicomError
from rsna_ich.core.limits import MAX_PIXEL_BYTES
from rsna_ich.dicom.archive import Member, archive_members, archive_order, is_archive, member_offset, open_member, read_head, split_member, unpacked_file
from rsna_ich.dicom.files import get_dicom_files
from rsna_ich.dicom.door import read_hu

PACKED = ['tar', 'tar.gz', 'tar.bz2', 'tar.xz']
KINDS = ['zip', *PACKED]
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]

def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    "`members` are pairs of a name (or `ZipInfo`) and bytes"
    with zipfile.ZipFile(path, 'w', method) as z:
        for name,data in members: z.writestr(name, data)
    return path

def write_tar(path, members, fmt=tarfile.PAX_FORMAT, mode=None):
    "`members` are pairs of a name (or `TarInfo`) and bytes"
    mode = mode or {'.tar':'w', '.gz':'w:gz', '.bz2':'w:bz2', '.xz':'w:xz'}[Path(path).suffix]
    with tarfile.open(path, mode, format=fmt) as t:
        for name,data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path

def write(path, members): return (write_zip if Path(path).suffix == '.zip' else write_tar)(path, members)
def errors(path): return {m.name:m.error for m in archive_members(path)}
def content(path, name):
    with open_member(path, name) as f: return f.read()

def noise(n, seed=0): return random.Random(seed).randbytes(n)
SMALL = [('a/one.dcm', noise(5000)), ('a/two.dcm', b'abc'*3000), ('b.dcm', b'')]

# ---- the same as the peers

chars = st.characters(exclude_categories=('Cc', 'Cs'), exclude_characters='/\\:')
part = st.text(chars, min_size=1, max_size=12).filter(lambda s: s not in ('.', '..'))
names = st.lists(part, min_size=1, max_size=3).map('/'.join)
data = st.one_of(st.binary(max_size=3000), st.builds(lambda b,n: b*n, st.binary(max_size=8), st.integers(0, 9000)))
sets = st.dictionaries(names, data, max_size=6)
tars = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])

@contextmanager
def fresh():
    "A file's stamp is as coarse as the clock of the disk, so tests that rewrite one file forget what was open"
    A._opened.cache_clear()
    try: yield
    finally: A._opened.cache_clear()

def check(path, members, picks):
    "Every member, whole and by pieces in the order of `picks`"
    assert is_archive(path)
    assert archive_members(path) == [Member(n, len(members[n]), None) for n in sorted(members)]
    assert sorted(archive_order(path)) == sorted(members)
    for name,want in members.items():
        assert content(path, name) == want
        with open_member(path, name) as f:
            for i,n in picks:
                f.seek(i)
                assert f.read(n) == want[i:i+n]
                assert read_head(path, name, n) == want[:n]
        start = member_offset(path, name)
        if start is not None:
            with open(path, 'rb') as f: assert f.seek(start) == start and f.read(len(want)) == want

picks = st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 20_000)), max_size=4)

@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(members=sets, picks=picks, methods=st.lists(st.sampled_from(METHODS), min_size=6, max_size=6))
def test_zips_give_back_what_went_in(tmp_path, members, picks, methods):
    with fresh():
        with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z:
            for (name,d),m in zip(members.items(), methods): z.writestr(name, d, m)
        assume((tmp_path/'x.zip').read_bytes()[128:132] != b'DICM')
        check(tmp_path/'x.zip', members, picks)

@pytest.mark.parametrize('kind', PACKED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(members=sets.filter(bool), picks=picks, fmt=tars)
def test_tars_give_back_what_went_in(tmp_path, kind, members, picks, fmt):
    "An empty tar is nothing but zeros, and no archive"
    with fresh():
        write_tar(tmp_path/f'x.{kind}', members.items(), fmt)
        check(tmp_path/f'x.{kind}', members, picks)

@pytest.mark.parametrize('kind', KINDS)
def test_threads_share_an_archive(tmp_path, kind):
    members = {f'{i:03}.dcm':noise(20_000, i) + bytes(20_000) for i in range(24)}
    path = write(tmp_path/f'x.{kind}', members.items())
    def reads(seed):
        for name in random.Random(seed).sample(sorted(members), 8):
            assert read_head(path, name, 700) == members[name][:700] and content(path, name) == members[name]
        return True
    with ThreadPoolExecutor(6) as pool: assert all(pool.map(reads, range(12)))

@pytest.mark.parametrize('kind', ['zip', 'tar.gz'])
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_forked_process_reads_on(tmp_path, kind):
    "In the middle of a member, and while another thread of the parent was listing an archive"
    path = write(tmp_path/f'x.{kind}', SMALL)
    with open_member(path, 'a/one.dcm') as f, ExitStack() as held:
        head = f.read(100)
        held.enter_context(A._opening)
        pid = os.fork()
        if not pid:
            signal.alarm(30)
            try: os._exit(0 if head + f.read() == SMALL[0][1] and content(path, 'a/two.dcm') == SMALL[1][1] else 1)
            finally: os._exit(2)
        assert head + f.read() == SMALL[0][1]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

@pytest.mark.parametrize('kind', KINDS)
def test_slices_from_an_archive_are_those_of_the_folder(heads, tmp_path, kind):
    files = get_dicom_files(heads/'dicom')[:20]
    path = write(tmp_path/f'x.{kind}', [(f'set/{f.name}', f.read_bytes()) for f in files])
    for f in files:
        archive,name = split_member(path/'set'/f.name)
        with open_member(archive, name) as g: assert np.array_equal(read_hu(g), read_hu(f))

def test_large_zips_have_zip64(tmp_path, monkeypatch):
    for k,v in dict(ZIP64_LIMIT=100, ZIP_FILECOUNT_LIMIT=1).items(): monkeypatch.setattr(zipfile, k, v)
    path = write_zip(tmp_path/'x.zip', SMALL)
    raw = path.read_bytes()
    assert b'PK\6\6' in raw
    check(path, dict(SMALL), [(7, 3000)])
    i = raw.index(b'PK\6\6')
    for bad in (raw[:i] + b'PK\6\5' + raw[i+4:], raw[:i+56] + raw[i+56:].replace(struct.pack('<Q', i), struct.pack('<Q', i-1)), raw.replace(struct.pack('<Q', i), b'\xff'*8)):
        with fresh(), pytest.raises(DataError, match='zip64|damaged'):
            path.write_bytes(bad)
            archive_members(path)

def test_zips_of_other_writers(tmp_path):
    "Written to a pipe, with data descriptors; with a comment; with nothing in it"
    class Pipe(io.RawIOBase):
        def __init__(self): self.got = b''
        def writable(self): return True
        def write(self, b):
            self.got += bytes(b)
            return len(b)
    pipe = Pipe()
    with zipfile.ZipFile(pipe, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,d in SMALL: z.writestr(name, d)
        z.comment = b'PK\5 a comment'*9
    (tmp_path/'x.zip').write_bytes(pipe.got)
    check(tmp_path/'x.zip', dict(SMALL), [(7, 3000)])
    check(write_zip(tmp_path/'none.zip', []), {}, [])

def test_folders_and_dots_are_no_members(tmp_path):
    for i,d in enumerate(('a/x.dcm', 'a/b/y.dcm')):
        (tmp_path/'src'/d).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'src'/d).write_bytes(bytes([i]))
    with tarfile.open(tmp_path/'x.tgz', 'w:gz') as t: t.add(tmp_path/'src', '.')
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z:
        for p in sorted((tmp_path/'src').rglob('*')): z.write(p, './'+p.relative_to(tmp_path/'src').as_posix())
    for o in ('x.tgz', 'x.zip'):
        assert archive_members(tmp_path/o) == [Member('a/b/y.dcm', 1, None), Member('a/x.dcm', 1, None)]
        assert content(*split_member(tmp_path/o/'.'/'a'/'b'/'y.dcm')) == b'\1'

@pytest.mark.parametrize('fmt', [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_each_tar(tmp_path, fmt):
    members = {'d'*90 + '/' + 'e'*60 + '.dcm':b'deep', 'ü'*40 + '.dcm':b'other letters'}
    check(write_tar(tmp_path/'x.tar', members.items(), fmt), members, [])

def test_the_oldest_tars(tmp_path):
    "No magic, a folder that only its slash tells"
    raw = bytearray(write_tar(tmp_path/'x.tar', [('a/', b''), ('a/b.dcm', b'old')], tarfile.USTAR_FORMAT).read_bytes())
    for i in (0, 512): raw[i:i+512] = header(raw[i:i+512], {156:b'\0', 257:bytes(8)})
    (tmp_path/'x.tar').write_bytes(raw)
    check(tmp_path/'x.tar', {'a/b.dcm':b'old'}, [])

@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_packed_streams_may_follow_each_other(tmp_path, pack):
    raw = write_tar(tmp_path/'x.tar', SMALL).read_bytes()
    (tmp_path/'x').write_bytes(b''.join(pack(raw[i:i+3000]) for i in range(0, len(raw), 3000)) + pack(b''))
    check(tmp_path/'x', dict(SMALL), [(7, 3000)])

@pytest.mark.parametrize('kind', [*KINDS, *METHODS])
def test_large_members(tmp_path, kind):
    "More than is unpacked at a time"
    d = noise(1_700_000)*2
    path = write(tmp_path/f'x.{kind}', [('x.dcm', d)]) if kind in KINDS else write_zip(tmp_path/'x.zip', [('x.dcm', d)], kind)
    assert content(path, 'x.dcm') == d and read_head(path, 'x.dcm', 1_500_000) == d[:1_500_000]
    with open_member(path, 'x.dcm') as f:
        f.seek(-7, os.SEEK_END)
        assert f.read() == d[-7:] and f.read() == b'' and f.seek(99) == 99 and f.read(2_500_000) == d[99:2_500_099]
        with pytest.raises(ValueError): f.seek(-1)

@pytest.mark.parametrize('kind', KINDS)
def test_the_order_in_which_members_lie(tmp_path, kind):
    assert archive_order(write(tmp_path/f'x.{kind}', SMALL[::-1])) == [n for n,_ in SMALL[::-1]]

# ---- what an archive is

def test_what_is_no_archive(tmp_path, heads):
    slice_ = get_dicom_files(heads/'dicom')[0].read_bytes()
    others = dict(slice=slice_, polyglot=b'PK\3\4' + slice_[4:], table=gzip.compress(b'ID,Label\n'*99), empty=b'', zeros=bytes(2048), text=b'Dear colleague'*99,
        cut=gzip.compress(bytes(99))[:5], xz=lzma.compress(noise(999)),
        slice_in_a_tars_dress=tar_of((head(size=b'\x80\0\0\0DICM\0\0\0\0'), b'abc')))
    for k,v in others.items():
        (tmp_path/k).write_bytes(v)
        assert not is_archive(tmp_path/k), k
        with pytest.raises(DataError, match=f'{k}: not a zip or tar'): archive_members(tmp_path/k)
    os.mkfifo(tmp_path/'pipe')
    for o in ('pipe', 'nowhere', '.', 'a\0b'): assert not is_archive(tmp_path/o) and split_member(tmp_path/o/'x') is None
    for o in ('pipe', 'nowhere', '.'):
        with pytest.raises(DataError): archive_members(tmp_path/o)

def test_a_member_that_is_not_there(tmp_path):
    path = write_zip(tmp_path/'x.zip', SMALL)
    for f in (lambda n: open_member(path, n), lambda n: read_head(path, n, 9), lambda n: member_offset(path, n)):
        for name in ('a', 'z.dcm', '', 'b.dcm/x', '../b.dcm', 'a/./one.dcm'):
            with pytest.raises(DicomError, match='no such file in x.zip'): f(name)

def test_an_archive_that_changed_is_read_anew(tmp_path):
    path = write_zip(tmp_path/'x.zip', SMALL)
    assert len(archive_members(path)) == 3
    with zipfile.ZipFile(path, 'a') as z: z.writestr('new.dcm', b'new')
    assert content(path, 'new.dcm') == b'new'

def test_an_open_member_outlives_the_cache(tmp_path):
    path = write_zip(tmp_path/'x.zip', SMALL)
    with fresh(): f = open_member(path, 'a/one.dcm')
    path.unlink()
    assert f.read() == SMALL[0][1]
    fd = f.raw.archive.fd
    os.fstat(fd)
    del f
    with pytest.raises(OSError): os.fstat(fd)

@pytest.mark.parametrize('method,most', [*zip(METHODS, [20_000, 20_000, 1_000_000, 20_000])])
def test_a_head_unpacks_no_more_than_itself(tmp_path, monkeypatch, method, most):
    "Of bzip2 that is a block of 900 kB"
    path = write_zip(tmp_path/'x.zip', [('x.dcm', noise(3_000_000))], method)
    archive_members(path)
    got,pread = [],os.pread
    def counted(*a):
        got.append(len(r := pread(*a)))
        return r
    monkeypatch.setattr(os, 'pread', counted)
    read_head(path, 'x.dcm', 2048)
    head_bytes = sum(got)
    with open_member(path, 'x.dcm') as f: f.read(132)
    assert head_bytes < most and sum(got) < 2*most

# ---- hostile zips

def entry(raw, name):
    "Where the entry of `name` stands in the table of contents of a zip"
    i = raw.index(b'PK\1\2')
    while raw[i+46:i+46+len(name)] != name: i = raw.index(b'PK\1\2', i+1)
    return i

def patched(path, name, at, fmt, value):
    "Change one field of the table of contents: 8 flags, 16 checksum, 20 packed, 24 size, 38 attributes, 42 offset"
    raw = bytearray(Path(path).read_bytes())
    struct.pack_into(fmt, raw, entry(raw, name)+at, value)
    Path(path).write_bytes(raw)
    return path

def zinfo(name, mode=0, make=zipfile.ZipInfo):
    i = make(name)
    i.external_attr,i.compress_type = mode << 16,zipfile.ZIP_DEFLATED
    return i

class RawName(zipfile.ZipInfo):
    "A name that zipfile would not write"
    def __init__(self, name):
        super().__init__('x')
        self.filename = name

BAD_NAMES = {'../up.dcm':'step up', 'a/../../up.dcm':'step up', '..':'step up', '/etc/passwd':'absolute', 'C:/x.dcm':'drive letter', 'c:x':'drive letter',
    '..\\x':'step up', 'a\\..\\..\\up.dcm':'step up', 'a/..\\up.dcm':'step up', '\\abs':'absolute', '\\\\server\\disk\\x':'absolute', 'C:\\x':'drive letter', 'a\\\nb':'control',
    'line\nbreak':'control', 'null\0byte.dcm':'control', '\x1b[2J':'control', 'x'*2000:'2000 characters'}

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name,why', BAD_NAMES.items())
def test_names_that_are_refused(tmp_path, kind, name, why):
    if '\0' in name and kind != 'zip': return
    info = zinfo(name, make=RawName) if kind == 'zip' else name
    path = write(tmp_path/f'x.{kind}', [(info, b'evil'), ('good.dcm', b'good')])
    bad,good = sorted(archive_members(path), key=lambda m: m.error is None)
    assert good == Member('good.dcm', 4, None) and content(path, 'good.dcm') == b'good'
    assert why in bad.error and bad.size == 4 and not any(c in bad.name for c in '\0\n\x1b') and len(bad.name) <= 1000
    assert archive_order(path) == ['good.dcm']
    for n in (name, bad.name):
        with pytest.raises(DicomError): open_member(path, n)

@pytest.mark.parametrize('kind', KINDS)
def test_names_made_on_windows(tmp_path, kind):
    "Their slashes lean the other way, those of folders too"
    members = [('CT\\', b''), ('CT\\b.dcm', b'two'), ('CT\\.\\deep\\\\a.dcm', b'one'), ('CT/c.dcm', b'')]
    path = write(tmp_path/f'x.{kind}', [(zinfo(n, make=RawName) if kind == 'zip' else n, d) for n,d in members])
    assert archive_members(path) == [Member('CT/b.dcm', 3, None), Member('CT/c.dcm', 0, None), Member('CT/deep/a.dcm', 3, None)]
    assert content(*split_member(path/'CT'/'deep'/'a.dcm')) == b'one' and content(path, 'CT/b.dcm') == b'two'
    with pytest.raises(DicomError, match='no such file'): open_member(path, 'CT\\b.dcm')

def test_names_with_bytes_of_no_alphabet(tmp_path):
    name = b'x\xff\xfe.dcm'.decode('utf-8', 'surrogateescape')
    assert 'no UTF-8' in errors(write_tar(tmp_path/'x.tar', [(name, b'')], tarfile.GNU_FORMAT))['x\\udcff\\udcfe.dcm']
    path = patched(write_zip(tmp_path/'x.zip', [('abcd', b'')]), b'abcd', 8, '<H', 0x800)
    path.write_bytes(path.read_bytes().replace(b'abcd', b'a\xff\xfed'))
    assert 'no UTF-8' in errors(path)['a\\udcff\\udcfed']

@pytest.mark.parametrize('mode,why', [(stat.S_IFLNK, 'symbolic link'), (stat.S_IFIFO, 'regular'), (stat.S_IFCHR, 'regular'), (stat.S_IFBLK, 'regular'), (stat.S_IFSOCK, 'regular'),
    (stat.S_IFDIR, 'regular')])
def test_zip_members_that_are_no_files(tmp_path, mode, why):
    path = write_zip(tmp_path/'x.zip', [(zinfo('x.dcm', mode | 0o644), b'/etc/passwd'), (zinfo('y.dcm', stat.S_IFREG | 0o644), b'good')])
    assert why in errors(path)['x.dcm'] and errors(path)['y.dcm'] is None
    with pytest.raises(DicomError, match=why): read_head(path, 'x.dcm', 4)

@pytest.mark.parametrize('at,fmt,value,why', [(8, '<H', 1, 'encrypted'), (8, '<H', 0x41, 'encrypted'), (8, '<H', 0x20, 'method 8'), (10, '<H', 9, 'method 9'), (10, '<H', 93, 'method 93'), (10, '<H', 95, 'method 95'), (10, '<H', 99, 'method 99'),
    (10, '<H', 264, 'method 264'), (10, '<H', 0, 'stored bytes'), (24, '<I', 300 << 20, 'more than'), (24, '<I', A.RATIO_FROM+1, 'as a bomb')])
def test_zip_entries_that_are_refused(tmp_path, at, fmt, value, why):
    path = patched(write_zip(tmp_path/'x.zip', SMALL), b'a/two.dcm', at, fmt, value)
    assert why in errors(path)['a/two.dcm'] and content(path, 'a/one.dcm') == SMALL[0][1]
    with pytest.raises(DicomError, match=why): open_member(path, 'a/two.dcm')

@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('kind', KINDS)
def test_twins_are_refused(tmp_path, kind):
    twins = [('a/b', b'1'), ('a//b', b'2'), ('./a/b', b'3'), ('a\\b', b'5'), ('c', b'4')]
    path = write(tmp_path/f'x.{kind}', twins)
    assert [(m.name, m.error is None) for m in archive_members(path)] == [('a/b', False)]*4 + [('c', True)]
    with pytest.raises(DicomError, match='several members'): open_member(path, 'a/b')
    with fresh(): assert 'several members' in errors(write(path, twins[:1] + twins[3:]))['a/b']

@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('at,by,why', [(24, 1, 'fewer|stored bytes'), (24, 900, 'fewer|stored bytes'), (24, -1, 'more|stored bytes'), (24, -900, 'more|stored bytes'), (16, 1, 'checksum')])
def test_sizes_and_checksums_that_lie(tmp_path, method, at, by, why):
    d = SMALL[0][1]
    path = write_zip(tmp_path/'x.zip', SMALL[:1], method)
    patched(path, b'a/one.dcm', at, '<I', (len(d) if at == 24 else zlib.crc32(d)) + by)
    with pytest.raises(DicomError, match=f'^one.dcm: .*({why})'): content(path, 'a/one.dcm')
    if at == 16: assert read_head(path, 'a/one.dcm', 99) == d[:99]

@pytest.mark.parametrize('method', METHODS[1:])
@pytest.mark.parametrize('n', [0, 4, 9, 12, 999, 4900])
def test_packed_data_that_ends_early(tmp_path, method, n):
    path = patched(write_zip(tmp_path/'x.zip', SMALL, method), b'a/one.dcm', 20, '<I', n)
    with pytest.raises(DicomError, match='^one.dcm: the packed data is cut off'): content(path, 'a/one.dcm')
    assert content(path, 'a/two.dcm') == SMALL[1][1]

def unmarked(d):
    "LZMA without a mark at its end, which Python doesn't write: the one chunk of an LZMA2 stream"
    raw = lzma.compress(d, lzma.FORMAT_RAW, filters=[dict(id=lzma.FILTER_LZMA2, preset=6)])
    n,packed = (raw[0] & 31) << 16 | int.from_bytes(raw[1:3], 'big'),int.from_bytes(raw[3:5], 'big')+1
    if raw[0] < 0xE0 or n+1 != len(d) or len(raw) != 7+packed: return None
    return struct.pack('<2BHBI', 9, 20, 5, raw[5], 1<<23) + raw[6:-1]

def write_lzma(path, packed, d, flags):
    "A zip with one member `x` whose LZMA data is as given"
    write_zip(path, [('x', packed)], zipfile.ZIP_STORED)
    for at,fmt,v in ((8, '<H', flags), (10, '<H', 14), (16, '<I', zlib.crc32(d)), (24, '<I', len(d))): patched(path, b'x', at, fmt, v)
    return path

@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(parts=st.lists(st.builds(lambda b,n: b*n, st.binary(min_size=1, max_size=30), st.integers(1, 900)), min_size=1, max_size=8), picks=picks)
def test_lzma_without_a_mark_at_its_end(tmp_path, parts, picks):
    d = b''.join(parts)
    assume(packed := unmarked(d))
    with fresh(): check(write_lzma(tmp_path/'x.zip', packed, d, 0), dict(x=d), picks)

def test_lzma_without_a_mark_is_checked(tmp_path):
    d = noise(20_000) + bytes(30_000)
    packed = unmarked(d)
    check(write_lzma(tmp_path/'x.zip', packed, d, 0), dict(x=d), [(49_990, 99)])
    bad = bytearray(packed)
    bad[9000] ^= 1
    for packed_,d_,flags,why in ((packed[:-20], d, 0, 'cut off'), (packed, d[:-1], 0, 'damaged|checksum'), (packed, d + b'a', 0, 'cut off|damaged'),
        (packed, d, 2, 'cut off|more|damaged'), (bytes(bad), d, 0, 'damaged|checksum')):
        with fresh(), pytest.raises(DicomError, match=why): content(write_lzma(tmp_path/'x.zip', packed_, d_, flags), 'x')

@pytest.mark.parametrize('head,why', [((9, 20, 6, 93, 1<<16), 'settings of 6 bytes'), ((9, 20, 5, 93, 1<<30), '1073741824 bytes of memory, more than'), ((9, 20, 5, 93, 2**32-1), 'bytes of memory'),
    ((9, 20, 5, 93, A.MAX_XZ_BYTES+1), 'bytes of memory'), ((9, 20, 5, 255, 1<<16), 'damaged')])
def test_lzma_settings_that_are_refused(tmp_path, head, why):
    d = b'abc'*99
    good = write_zip(tmp_path/'x.zip', [('x', d)], zipfile.ZIP_LZMA).read_bytes()
    i = good.index(struct.pack('<H', 5) + b'\x5d')-2
    (tmp_path/'x.zip').write_bytes(good[:i] + struct.pack('<2BHBI', *head) + good[i+9:])
    with fresh():
        for f in (lambda: content(tmp_path/'x.zip', 'x'), lambda: read_head(tmp_path/'x.zip', 'x', 9)):
            with pytest.raises(DicomError, match=f'^x: .*{why}'): f()

@pytest.mark.parametrize('method', METHODS[2:])
def test_slices_from_zips_of_other_packings(heads, tmp_path, method):
    files = get_dicom_files(heads/'dicom')[:5]
    path = write_zip(tmp_path/'x.zip', [(f.name, f.read_bytes()) for f in files], method)
    for f in files:
        assert member_offset(path, f.name) is None
        with open_member(path, f.name) as g: assert np.array_equal(read_hu(g), read_hu(f))

def test_a_second_stream_is_not_the_members(tmp_path):
    "As zipfile, we end where the packed data ends, whatever the table of contents says of its length"
    d = b'abc'*99
    path = write_zip(tmp_path/'x.zip', [('x', zlib.compress(d, wbits=-15) + zlib.compress(d, wbits=-15) + b'\3\0'*999)], zipfile.ZIP_STORED)
    for at,fmt,v in ((10, '<H', 8), (16, '<I', zlib.crc32(d)), (24, '<I', len(d))): patched(path, b'x', at, fmt, v)
    assert content(path, 'x') == d
    with fresh(), pytest.raises(DicomError, match='fewer'): content(patched(path, b'x', 24, '<I', 2*len(d)), 'x')

@pytest.mark.parametrize('method', METHODS[1:])
def test_checksums_count_after_a_jump(tmp_path, method):
    "What is packed is checked although its middle was skipped"
    raw = bytearray(write_zip(tmp_path/'x.zip', [('x', b'ab'*50_000)], method).read_bytes())
    struct.pack_into('<I', raw, entry(raw, b'x')+16, 1)
    (tmp_path/'x.zip').write_bytes(raw)
    with open_member(tmp_path/'x.zip', 'x') as f:
        f.seek(-10, os.SEEK_END)
        with pytest.raises(DicomError, match='checksum'): f.read()

def test_two_entries_for_the_same_bytes(tmp_path):
    path = patched(write_zip(tmp_path/'x.zip', SMALL), b'a/two.dcm', 42, '<I', 0)
    with pytest.raises(DataError, match='x.zip: .*bomb'): archive_members(path)

def quoting_bomb(n):
    "A zip in which each member's packed data quotes the next member's header and goes on into its data"
    kernel = zlib.compress(bytes(100_000), 9, -15)
    body,d,members = kernel,bytes(100_000),[]
    for i in reversed(range(n)):
        name = b'%d' % i
        head = struct.pack('<4s5H3I2H', b'PK\3\4', 20, 0, 8, 0, 0, zlib.crc32(d), len(body), len(d), len(name), 0) + name
        members.insert(0, (name, zlib.crc32(d), len(body), len(d), len(head)))
        data = body
        body,d = struct.pack('<BHH', 0, len(head), len(head) ^ 0xFFFF) + head + body,head + d
    out,table,pos = head + data,b'',0
    for i,(name,crc,packed,size,hn) in enumerate(members):
        table += struct.pack('<4s6H3I5H2I', b'PK\1\2', 20, 20, 0, 8, 0, 0, crc, packed, size, len(name), 0, 0, 0, 0, 0, pos) + name
        pos += hn + 5
    return out + table + struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, n, n, len(table), len(out), 0), members

def test_the_bomb_that_quotes(tmp_path):
    raw,members = quoting_bomb(9)
    assert len(zlib.decompress(raw[members[0][4]:], -15)) == members[0][3] > 100_000
    (tmp_path/'x.zip').write_bytes(raw)
    with pytest.raises(DataError, match='bomb'): archive_members(tmp_path/'x.zip')

def test_a_header_that_reaches_into_the_next_member(tmp_path):
    "The table of contents is fair; the member's own header has a long extra field"
    raw = bytearray(write_zip(tmp_path/'x.zip', SMALL).read_bytes())
    struct.pack_into('<H', raw, 28, 300)
    (tmp_path/'x.zip').write_bytes(raw)
    with pytest.raises(DicomError, match='one.dcm: it reaches into the next'): read_head(tmp_path/'x.zip', 'a/one.dcm', 9)

@pytest.mark.parametrize('method', METHODS[1:])
def test_a_bomb_of_zeros(tmp_path, method):
    air = np.full((1024, 1024), -1000, '<i2').tobytes()
    path = write_zip(tmp_path/'x.zip', [('bomb', bytes(200 << 20)), ('air.dcm', air)], method)
    assert 'bomb' in errors(path)['bomb'] and content(path, 'air.dcm') == air
    with pytest.raises(DicomError, match='bomb'): read_head(path, 'bomb', 9)

@pytest.mark.parametrize('method', METHODS[1:])
def test_a_file_of_frames_may_be_all_air(tmp_path, method):
    "As many bytes as pixels may fill, and a header; one more than the limit is a bomb"
    n = MAX_PIXEL_BYTES + 5000
    path = write_zip(tmp_path/'x.zip', [('air.dcm', bytes(n)), ('bomb', bytes(A.RATIO_FROM+1))], method)
    assert list(errors(path)) == ['air.dcm', 'bomb'] and 'bomb' in errors(path)['bomb'] and not errors(path)['air.dcm']
    with open_member(path, 'air.dcm') as f: assert f.read() == bytes(n)

def test_the_ratio_is_that_of_the_whole_member(tmp_path, monkeypatch):
    "What begins with much air and is fair as a whole is read, by whatever way"
    monkeypatch.setattr(A, 'RATIO_FROM', 1<<20)
    d = bytes(60 << 20) + noise(350_000)
    path = write_zip(tmp_path/'x.zip', [('x', d)])
    assert errors(path) == {'x':None} and read_head(path, 'x', 59 << 20) == d[:59 << 20] and content(path, 'x') == d

@pytest.mark.parametrize('method', METHODS[1:])
def test_a_bomb_that_declares_little(tmp_path, method):
    "No more is unpacked than was declared"
    d = bytes(200 << 20)
    path = patched(write_zip(tmp_path/'x.zip', [('x', d)], method), b'x', 24, '<I', 1<<20)
    tracemalloc.start()
    with pytest.raises(DicomError, match='more'): content(path, 'x')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32<<20

def test_two_headers_that_disagree(tmp_path):
    raw = write_zip(tmp_path/'x.zip', SMALL).read_bytes()
    (tmp_path/'x.zip').write_bytes(raw.replace(b'a/one', b'z/one', 1))
    with pytest.raises(DicomError, match='disagree'): content(tmp_path/'x.zip', 'a/one.dcm')

@pytest.mark.parametrize('at,fmt,value,why', [(4, '<H', 1, 'volumes'), (6, '<H', 1, 'volumes'), (8, '<H', 2, 'volumes'), (8, '<2H', (2, 2), 'longer than'), (8, '<2H', (4, 4), 'damaged'),
    (12, '<I', 50, 'not where'), (16, '<I', 5, 'not where'), (16, '<I', 2**32-1, 'not where')])
def test_last_records_that_lie(tmp_path, at, fmt, value, why):
    path = write_zip(tmp_path/'x.zip', SMALL)
    raw = bytearray(path.read_bytes())
    struct.pack_into(fmt, raw, raw.rindex(b'PK\5\6')+at, *(value if isinstance(value, tuple) else (value,)))
    path.write_bytes(raw)
    with pytest.raises(DataError, match=f'x.zip: .*{why}'): archive_members(path)

def test_a_zip_that_is_cut_off(tmp_path):
    raw = write_zip(tmp_path/'x.zip', SMALL).read_bytes()
    for n in range(4, len(raw)-1, 97):
        with fresh(), pytest.raises(DataError, match='cut off|damaged|not where'):
            (tmp_path/'x.zip').write_bytes(raw[:n])
            archive_members(tmp_path/'x.zip')

@pytest.mark.parametrize('limit,value,why', [('MAX_MEMBERS', 2, 'more than 2'), ('MAX_TOTAL_BYTES', 9000, 'more than 9000 bytes together'), ('MAX_DIRECTORY_BYTES', 60, 'more than 60')])
def test_limits_of_a_zip(tmp_path, monkeypatch, limit, value, why):
    monkeypatch.setattr(A, limit, value)
    with pytest.raises(DataError, match=f'x.zip: .*{why}'): archive_members(write_zip(tmp_path/'x.zip', SMALL))

# ---- hostile tars

def header(block, changes):
    "A tar header with bytes changed, and its sum made right"
    block = bytearray(block)
    for at,b in changes.items(): block[at:at+len(b)] = b
    block[148:156] = b' '*8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)

def tar_of(*parts): return b''.join(h + d + bytes(-len(d)%512) for h,d in parts) + bytes(1024)
def head(name=b'x', kind=b'0', size=0): return header(bytes(512), {0:name, 124:b'%011o\0' % size if isinstance(size, int) else size, 156:kind, 257:b'ustar\x0000'})
GOOD = (head(b'good.dcm', size=4), b'good')

@pytest.mark.parametrize('kind,why', [(b'1', 'hard link'), (b'2', 'symbolic link'), (b'3', 'device'), (b'4', 'device'), (b'6', 'pipe'), (b'S', 'sparse'), (b'M', 'volume'), (b'Z', 'unknown type')])
def test_tar_members_that_are_no_files(tmp_path, kind, why):
    (tmp_path/'x.tar').write_bytes(tar_of((head(b'x.dcm', kind, 9999 if kind in b'12346' else 0), b''), GOOD))
    assert why in errors(tmp_path/'x.tar')['x.dcm'] and content(tmp_path/'x.tar', 'good.dcm') == b'good'
    with pytest.raises(DicomError, match=why): open_member(tmp_path/'x.tar', 'x.dcm')

def pax(**kw):
    "The records of an extended header"
    out = b''
    for k,v in kw.items():
        body,n = f' {k}={v}\n'.encode(),0
        while n != (n := len(str(n)) + len(body)): pass
        out += str(n).encode() + body
    return out

def test_sparse_files(tmp_path):
    "The old form, with more of its map in further blocks, and the new form"
    block = bytearray(head(b'old.dcm', b'S', 600))
    block[482] = 1
    more,last = bytearray(512),bytes(512)
    more[504] = 1
    sparse = {'GNU.sparse.major':1, 'GNU.sparse.realsize':10**9}
    raw = tar_of((header(block, {}) + more + last, bytes(600)), (head(kind=b'x', size=len(pax(**sparse))), pax(**sparse)), (head(b'new.dcm', size=3), b'abc'), GOOD)
    (tmp_path/'x.tar').write_bytes(raw)
    got = errors(tmp_path/'x.tar')
    assert 'sparse' in got['old.dcm'] and 'sparse' in got['new.dcm'] and content(tmp_path/'x.tar', 'good.dcm') == b'good'

@pytest.mark.parametrize('size', [2<<20, 8**11-1, b'\x80' + b'\x7f'*11])
def test_extended_headers_of_absurd_size(tmp_path, size):
    for kind in b'xgLK':
        with fresh(), pytest.raises(DataError, match='x.tar: a header of'):
            (tmp_path/'x.tar').write_bytes(tar_of((head(kind=bytes([kind]), size=size), b'5 a=b'), GOOD))
            archive_members(tmp_path/'x.tar')

HEADERS = [b'1'*60_000, b'1'*60_000 + b' ', b'9 hdrcharset='*5000, b'0 a=b\n', b'-5 a=b\n', b'+7 a=b\n', b'1_0 aa=bb\n', b'99 a=b\n', b'6 a=b', b'5 ab\n', b'0'*19 + b'1 ' + b'x'*60_000, pax(size=-5), pax(size='9'*9000), pax(size='x'), b' \n']

@pytest.mark.parametrize('data', HEADERS, ids=lambda d: d[:9].decode())
def test_extended_headers_of_nonsense(tmp_path, data):
    (tmp_path/'x.tar').write_bytes(tar_of(GOOD, (head(kind=b'x', size=len(data)), data), (head(b'lost.dcm', size=4), b'lost')))
    assert list(errors(tmp_path/'x.tar')) == ['', 'good.dcm'] and 'damaged' in errors(tmp_path/'x.tar')['']
    assert content(tmp_path/'x.tar', 'good.dcm') == b'good'

def test_a_thousand_extended_headers_for_one_member(tmp_path):
    d = pax(path='named.dcm')
    (tmp_path/'x.tar').write_bytes(tar_of(*[(head(kind=b'x', size=len(d)), d)]*5000, GOOD))
    assert errors(tmp_path/'x.tar') == {'named.dcm':None}

@pytest.mark.parametrize('kw', [dict(path='all.dcm'), dict(size=7)])
def test_a_header_that_speaks_for_all_members(tmp_path, kw):
    (tmp_path/'x.tar').write_bytes(tar_of((head(kind=b'g', size=len(pax(**kw))), pax(**kw)), GOOD))
    with pytest.raises(DataError, match='x.tar: a header that gives all files one'): archive_members(tmp_path/'x.tar')
    (tmp_path/'y.tar').write_bytes(tar_of((head(kind=b'g', size=len(pax(comment='abc'))), pax(comment='abc')), GOOD))
    assert errors(tmp_path/'y.tar') == {'good.dcm':None}

@pytest.mark.parametrize('size', [b'\xff'*12, b'\x80' + b'\xff'*11, b'77777777777\0', b'0000000009x\0', b'9'*12], ids=repr)
def test_sizes_that_cannot_be(tmp_path, size):
    "Negative, beyond counting, of more bytes than there are, no number"
    (tmp_path/'x.tar').write_bytes(tar_of(GOOD, (head(b'x.dcm', size=size), b'abc'), (head(b'lost.dcm', size=4), b'lost')))
    got = errors(tmp_path/'x.tar')
    assert got.pop('good.dcm', 0) is None and all(got.values()) and '' in got and 'lost.dcm' not in got

@pytest.mark.parametrize('kind', PACKED)
def test_a_tar_that_is_cut_off(tmp_path, kind):
    "What came before is there, a member that is cut is said to be, and so is the archive"
    members = [(f'{i}.dcm', noise(3000, i)) for i in range(5)]
    raw = write_tar(tmp_path/f'x.{kind}', members).read_bytes()
    for n in range(1000, len(raw)-1, 1501 if kind == 'tar' else 501):
        with fresh():
            (tmp_path/'x').write_bytes(raw[:n])
            if not is_archive(tmp_path/'x'): continue
            got = errors(tmp_path/'x')
            if kind == 'tar' and n >= len(members)*(512+3072) + 512: assert '' not in got
            else: assert 'cut off' in got['']
            for name,d in members:
                if name in got and not got[name]: assert content(tmp_path/'x', name) == d

def test_a_member_without_a_name(tmp_path):
    "It doesn't hide the row that speaks for the archive, which has no name either"
    (tmp_path/'x.tar').write_bytes(tar_of(GOOD, (head(b'', size=3), b'abc'))[:-1024])
    assert [(m.name, m.error) for m in archive_members(tmp_path/'x.tar')] == [('', 'not read from the archive: it has no name'),
        ('', 'the archive is cut off; what lay beyond this point is not listed'), ('good.dcm', None)]
    with pytest.raises(DicomError, match='^x.tar: not read'): open_member(tmp_path/'x.tar', '')

def test_two_tars_end_to_end(tmp_path):
    (tmp_path/'x.tar').write_bytes(tar_of(GOOD) + tar_of((head(b'more.dcm'), b'')))
    assert list(errors(tmp_path/'x.tar')) == ['', 'good.dcm']

def test_a_wrong_checksum_of_the_whole_stream(tmp_path):
    raw = bytearray(write_tar(tmp_path/'x.tar.gz', SMALL).read_bytes())
    raw[-6] ^= 1
    (tmp_path/'x.tar.gz').write_bytes(raw)
    assert 'damaged' in errors(tmp_path/'x.tar.gz').pop('') and content(tmp_path/'x.tar.gz', 'a/one.dcm') == SMALL[0][1]

@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_tar_that_is_a_bomb(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(A, 'TAR_RATIO_FROM', 4<<20)
    (tmp_path/'x').write_bytes(pack(tar_of(GOOD, (head(b'bomb', size=40<<20), bytes(40<<20)))))
    with pytest.raises(DataError, match='x: .*bomb'): archive_members(tmp_path/'x')
    monkeypatch.setattr(A, 'MAX_RATIO', 10**6)
    assert errors(tmp_path/'x') == {'good.dcm':None, 'bomb':None}

def test_an_xz_that_asks_for_much_memory(tmp_path):
    filters = [dict(id=lzma.FILTER_LZMA2, preset=0, dict_size=1<<28)]
    (tmp_path/'x').write_bytes(lzma.compress(tar_of(GOOD), filters=filters))
    assert not is_archive(tmp_path/'x')

def test_thousands_of_empty_streams(tmp_path):
    (tmp_path/'x').write_bytes(gzip.compress(tar_of(GOOD)) + gzip.compress(b'')*20_000)
    assert errors(tmp_path/'x') == {'good.dcm':None}

def test_limits_of_a_tar(tmp_path, monkeypatch):
    (tmp_path/'x.tar').write_bytes(tar_of(*[(head(b'd/', b'5'), b'')]*9))
    assert archive_members(tmp_path/'x.tar') == []
    with fresh(), monkeypatch.context() as m:
        m.setattr(A, 'MAX_MEMBERS', 8)
        with pytest.raises(DataError, match='more than 8 members'): archive_members(tmp_path/'x.tar')
    (tmp_path/'y.tar').write_bytes(tar_of(GOOD, GOOD))
    monkeypatch.setattr(A, 'MAX_MEMBER_BYTES', 3)
    assert 'more than 3' in errors(tmp_path/'y.tar')['good.dcm'] or 'several' in errors(tmp_path/'y.tar')['good.dcm']

# ---- one file that is packed

PACKS = [gzip.compress, bz2.compress, lzma.compress]

@settings(deadline=None)
@given(data=st.one_of(data, st.binary(max_size=9000)), pack=st.sampled_from(PACKS), cuts=st.lists(st.integers(0, 9000), max_size=3))
def test_a_packed_file_is_unpacked(data, pack, cuts):
    "By one stream or several"
    spots = [0, *sorted(cuts), len(data)]
    f = io.BytesIO(b''.join(pack(data[i:j]) for i,j in zip(spots, spots[1:])))
    f.seek(3)
    out = unpacked_file(f)
    assert type(out) is io.BytesIO and out.tell() == 0 and out.read() == data

@pytest.mark.parametrize('pack', PACKS)
def test_a_packed_slice_from_a_disk_and_an_archive(heads, tmp_path, pack):
    slice_ = get_dicom_files(heads/'dicom')[0]
    (tmp_path/'x').write_bytes(pack(slice_.read_bytes()))
    path = write_zip(tmp_path/'x.zip', [('x', (tmp_path/'x').read_bytes())])
    for f in (open(tmp_path/'x', 'rb'), open(tmp_path/'x', 'rb', buffering=0), open_member(path, 'x')):
        with f: assert np.array_equal(read_hu(unpacked_file(f)), read_hu(slice_))

def test_what_is_no_packed_file(heads):
    slice_ = get_dicom_files(heads/'dicom')[0].read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, 'w') as z: z.writestr('x', b'abc')
    for d in (b'', b'\x1f\x8b', b'BZ', slice_, b'\x1f\x8b\x08' + slice_[3:], b'BZh9' + slice_[4:], zipped.getvalue(), bytes(999)):
        f = io.BytesIO(d)
        f.seek(min(9, len(d)))
        assert unpacked_file(f) is None and f.tell() == 0

@pytest.mark.parametrize('pack', PACKS)
def test_packed_files_that_are_cut_off(pack):
    first = pack(noise(2000))
    d = first + pack(noise(2000, 1))
    for n in {*range(6, len(d))} - {len(first)}:
        with pytest.raises(DicomError, match='^the packed data is cut off$'): unpacked_file(io.BytesIO(d[:n]))

@pytest.mark.parametrize('pack,at', [(gzip.compress, -6), (gzip.compress, -2), (gzip.compress, 900), (bz2.compress, -3), (bz2.compress, 900),
    (lzma.compress, -40), (lzma.compress, 900)])
def test_packed_files_that_are_damaged(pack, at):
    d = bytearray(pack(noise(2000)))
    d[at] ^= 16
    with pytest.raises(DicomError, match='^the packed data is damaged$'): unpacked_file(io.BytesIO(d))

@pytest.mark.parametrize('pack', PACKS)
@pytest.mark.parametrize('tail', [b'and more of it', bytes(512), b'PK\3\4' + bytes(99)])
def test_packed_files_that_something_follows(pack, tail):
    with pytest.raises(DicomError, match='^the packed data is damaged$'): unpacked_file(io.BytesIO(pack(b'abc') + tail))

def test_a_packed_file_that_wants_much_memory():
    large = [dict(id=lzma.FILTER_LZMA2, preset=0, dict_size=1<<28)]
    with pytest.raises(DicomError, match=f'asks for more than {A.MAX_XZ_BYTES} bytes of memory'): unpacked_file(io.BytesIO(lzma.compress(b'abc', filters=large)))

@pytest.mark.parametrize('pack', PACKS)
def test_a_packed_file_at_the_limit(monkeypatch, pack):
    monkeypatch.setattr(A, 'MAX_INFLATED_BYTES', 3_000_000)
    assert unpacked_file(io.BytesIO(pack(bytes(3_000_000)))).read() == bytes(3_000_000)
    for d in (pack(bytes(3_000_001)), pack(bytes(2_000_000))*2):
        with pytest.raises(DicomError, match='the packed file grows to more than 3000000 bytes'): unpacked_file(io.BytesIO(d))

@pytest.mark.parametrize('pack', PACKS)
def test_a_packed_bomb_stays_small(monkeypatch, pack):
    "It is given up on the way, and what it would have been was never in memory"
    monkeypatch.setattr(A, 'MAX_INFLATED_BYTES', 20<<20)
    d = io.BytesIO(pack(bytes(100<<20))*9)
    tracemalloc.start()
    with pytest.raises(DicomError, match='grows to more'): unpacked_file(d)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64<<20

def test_a_packed_member_that_is_damaged_in_its_archive(tmp_path):
    "The archive's own words come through"
    path = patched(write_zip(tmp_path/'x.zip', [('x.gz', gzip.compress(noise(9000)))]), b'x.gz', 16, '<I', 5)
    with pytest.raises(DicomError, match='^x.gz: the checksum is wrong'), open_member(path, 'x.gz') as f: unpacked_file(f)

@settings(deadline=None, max_examples=300)
@given(raw=st.binary(max_size=2000), mark=st.sampled_from([b'\x1f\x8b\x08', b'\x1f\x8b\x08' + bytes(7), b'BZh9', b'BZh91AY&SY', b'\xfd7zXZ\0', b'\xfd7zXZ\0\0\4\xe6\xd6\xb4F', b'']))
def test_any_packed_bytes(raw, mark):
    try: out = unpacked_file(io.BytesIO(mark + raw))
    except DicomError as e: assert str(e).startswith('the packed data ')
    else: assert out is None or isinstance(out, io.BytesIO)

# ---- damage of any kind

def reads_or_says(path):
    "Read all of an archive; what fails may only fail as one of ours, and names no content"
    try: members = archive_members(path)
    except DataError as e: return str(e).startswith(f'{path.name}: ')
    for m in members:
        try:
            with open_member(path, m.name) as f:
                f.read(50)
                f.seek(0)
                assert len(f.read()) == m.size and not m.error
            read_head(path, m.name, 99)
        except DicomError as e: assert 'Mustermann' not in str(e)
    return True

@pytest.mark.parametrize('kind', ['zip', 'zip.bz2', 'zip.lzma', 'tar', 'tar.gz', 'tar.xz', 'tar.bz2'])
def test_flipped_bytes(tmp_path, kind):
    secret = b'Mustermann^Erika'
    members = [('a/one.dcm', noise(300) + secret), ('b/two.dcm', secret*40), ('c.dcm', b'')]
    path = write_zip(tmp_path/'x', members, dict(bz2=12, lzma=14)[kind[4:]]) if kind.startswith('zip.') else write(tmp_path/f'x.{kind}', members)
    raw = path.read_bytes()
    rng,path = random.Random(7),tmp_path/'bad'
    tracemalloc.start()
    for i in range(2000 if kind.startswith('zip') or kind == 'tar' else 300):
        bad = bytearray(raw)
        spots = range(len(raw)) if kind != 'tar' else range(0, 4096)
        for _ in range(rng.choice((1, 1, 1, 3))): bad[rng.choice(spots)] = rng.choice((0, 255, rng.randrange(256)))
        if kind == 'tar' and i % 2: mend(bad)
        with fresh():
            path.write_bytes(bad)
            is_archive(path)
            assert reads_or_says(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32<<20

def mend(raw):
    "Make the sums of a small tar's headers right again, so that damage gets past them"
    for i in range(0, len(raw)-511, 512):
        if raw[i+257:i+262] == b'ustar': raw[i:i+512] = header(raw[i:i+512], {})

@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(raw=st.binary(max_size=2000), mark=st.sampled_from([b'PK\3\4', b'PK\5\6', b'\x1f\x8b\x08', b'BZh9', b'\xfd7zXZ\0', b'']))
def test_any_bytes(tmp_path, raw, mark):
    with fresh():
        (tmp_path/'x').write_bytes(mark + raw)
        is_archive(tmp_path/'x')
        assert reads_or_says(tmp_path/'x')

@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from([b'a', b'b/', b'../c', b'']), st.sampled_from(list(b'\x000123456789LKxgXSDMV')), st.binary(max_size=700)), max_size=6), st.binary(max_size=40))
def test_any_sequence_of_tar_headers(tmp_path, parts, tail):
    with fresh():
        raw = tar_of(*[(head(n, bytes([k]), len(d)), d) for n,k,d in parts])
        (tmp_path/'x.tar').write_bytes(raw + tail)
        assert reads_or_says(tmp_path/'x.tar')
