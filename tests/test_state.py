"What the library keeps for the life of a process: seen, bounded, freed, made anew; forks in the middle of it all"
import ast, os, signal, zipfile
from concurrent.futures import ThreadPoolExecutor
import house, numpy as np, pydicom, pytest, torch
from pydicom.uid import JPEG2000Lossless
from rsna_ich.core.buffers import BufferPool, new_empty
from rsna_ich.core.loops import run_in_parts
from rsna_ich.core.state import free_state, kept_state
from rsna_ich.dicom.decoder import decoder
from rsna_ich.dicom.door import read_hu
from rsna_ich.dicom.scanning import scan
from rsna_ich.phantom.files import write_dicom, write_phantom

@pytest.fixture(scope='module')
def set_of_files(tmp_path_factory):
    "A folder, an archive of it, and a compressed file"
    root = tmp_path_factory.mktemp('state')
    write_phantom(root, studies=1, size=64)
    files = sorted((root/'dicom').iterdir())
    with zipfile.ZipFile(root/'set.zip', 'w') as z:
        for o in files: z.write(o, o.name)
    hu = np.random.default_rng(0).integers(-1024, 3000, (64, 64)).astype(np.int16)
    ds = pydicom.dcmread(write_dicom(root/'plain.dcm', hu, (12, 0, -1024)))
    ds.compress(JPEG2000Lossless)
    ds.save_as(root/'packed.dcm')
    return root

def use(root):
    "Everything that leaves something behind"
    table = scan(root/'set.zip')
    hu = read_hu(root/'packed.dcm')
    scratch = new_empty((4, 64, 64), torch.device('cpu'))
    done = np.zeros(64, int)
    def add(part): done[part] += 1
    run_in_parts(add, 64)
    assert (done == 1).all() and scratch.shape == (4, 64, 64)
    return len(table), float(hu.sum())

def test_all_is_listed_freed_and_made_anew(set_of_files):
    before = use(set_of_files)
    assert set(kept_state()) >= {'archives', 'codings', 'decoder', 'scratch', 'threads'} and kept_state()['scratch'][1] >= 4*64*64*4
    assert decoder.proc is not None
    free_state()
    assert kept_state()['scratch'][1] == 0 and decoder.proc is None
    assert use(set_of_files) == before

def test_nothing_else_is_kept_by_module_globals():
    "Every module-level cache or lock of the package is in the list, or known to be small or to hold no resource"
    known = {'core.state', 'core.loops', 'core.buffers', 'dicom.archive', 'dicom.decoder', 'dicom.frames', 'dicom.scanning'}
    found = set()
    for name,path in house.package_modules().items():
        for node in house.parse(path).body:
            made = ast.unparse(node.value) if isinstance(node, ast.Assign) else ''
            if any(o in made for o in ('Lock()', 'BufferPool(', 'ThreadTeam(', 'local()', '_Decoder()')): found.add(name)
    assert found <= known

def test_two_threads_free_and_use(set_of_files):
    want = use(set_of_files)
    with ThreadPoolExecutor(2) as pool:
        got = [pool.submit(use, set_of_files) for _ in range(4)]
        for _ in range(4): free_state()
        assert all(o.result() == want for o in got)

@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_fork_in_the_middle(set_of_files):
    want = use(set_of_files)
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        torch.set_num_threads(1)
        try: os._exit(0 if use(set_of_files) == want else 1)
        finally: os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert use(set_of_files) == want

@pytest.mark.parametrize('limit,shapes,kept', [(100, [(40,), (50,), (60,)], [60]), (110, [(40,), (50,), (60,)], [50, 60]), (10, [(40,)], []), (1000, [(1,)]*3, [1])])
def test_buffers_have_a_bound_in_bytes(limit, shapes, kept):
    pool = BufferPool(limit=limit)
    for o in shapes: pool.take(o, np.uint8)
    assert [o.nbytes for o in pool.kept] == kept and pool.nbytes() <= limit

def test_buffers_have_a_bound_in_number():
    pool = BufferPool(most=3)
    held = [pool.take((i+1,), np.uint8) for i in range(5)]
    assert len(pool.kept) == 3 and len({id(o) for o in held}) == 5
