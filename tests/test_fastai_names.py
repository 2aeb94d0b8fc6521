"rsna_ich and fastai.medical.imaging in one process, in every order: the guard stays ours, fastai's methods give what they give alone"
import pickle, subprocess, sys
from shutil import copytree
import numpy as np, pandas as pd, pydicom, pytest
from rsna_ich.phantom.files import write_dicom
from rsna_ich.phantom.studies import phantom_study

pytest.importorskip('kornia')
pytest.importorskip('skimage')

OURS = 'from rsna_ich.all import *\n'
THEIRS = 'from fastai.medical.imaging import *\n'
PLAIN_THEIRS = 'import fastai.medical.imaging\n'
RELOAD = 'import importlib, sys\nfor o in {}: importlib.reload(importlib.import_module(o))\n'
RELOAD_THEIRS = RELOAD.format(['fastai.medical.imaging'])
RELOAD_OURS = RELOAD.format(['rsna_ich.dicom.fastai_names', 'rsna_ich.dicom.door', 'rsna_ich.dicom.display'])
DOOR,DISPLAY = [f'import rsna_ich.dicom.{o}\n' for o in ('door', 'display')]

ORDERS = {
    'ours, theirs':OURS + THEIRS, 'theirs, ours':THEIRS + OURS, 'ours twice':(OURS + THEIRS)*2, 'theirs twice':(THEIRS + OURS)*2,
    'theirs between':DOOR + PLAIN_THEIRS + DISPLAY, 'theirs again':OURS + THEIRS + RELOAD_THEIRS, 'theirs first and again':THEIRS + OURS + RELOAD_THEIRS*2,
    'ours again':OURS + THEIRS + RELOAD_OURS, 'ours last and again':THEIRS + OURS + RELOAD_OURS + RELOAD_THEIRS,
    'theirs anew':OURS + THEIRS + "import sys; del sys.modules['fastai.medical.imaging']\n" + THEIRS,
    'one name of theirs':DOOR + DISPLAY + 'from fastai.medical.imaging import dicom_windows\n'}

METHODS = '''
import pickle, sys
from pathlib import Path
import numpy as np, pandas as pd, matplotlib.pyplot as plt
from fastai.medical.imaging import PILDicom, dicom_windows
root = Path(sys.argv[1])
np_of = lambda x: np.asarray(x)
def drawn(ds, **kwargs):
    plt.close('all')
    ds.show(**kwargs)
    return [np.asarray(o.get_array(), float) for ax in plt.gcf().axes for o in ax.images], [o.get_cmap().name for ax in plt.gcf().axes for o in ax.images]
def zoomed(fn, f, *args):
    ds = fn.dcmread()
    getattr(ds, f)(*args)
    return np.asarray(ds.pixel_array), ds.shape
def saved(ds, f, *args):
    getattr(ds, f)(root/'out', *args)
    return (root/'out').with_suffix('.jpg' if f == 'save_jpg' else '.tif').read_bytes()
def methods(fn):
    ds = fn.dcmread()
    wins = [dicom_windows.brain, dicom_windows.subdural]
    return dict(scaled_px=np_of(ds.scaled_px), kind=(type(ds.scaled_px).__name__, str(ds.scaled_px.dtype)), hist=np_of(ds.hist_scaled()),
        hist_between=np_of(ds.hist_scaled(min_px=-1100, max_px=100)), hist_bins=np_of(ds.hist_scaled(brks=ds.scaled_px.freqhist_bins(20))),
        mask=np_of(ds.mask_from_blur(dicom_windows.brain)), nchan=np_of(ds.to_nchan(wins)), chan3=np_of(ds.to_3chan(*wins)),
        uint16=ds.to_uint16(), jpg=saved(ds, 'save_jpg', wins), tif=saved(ds, 'save_tif16'), zoom=zoomed(fn, 'zoom', .5), zoom_to=zoomed(fn, 'zoom_to', 32),
        shape=ds.shape, pixel_array=np_of(ds.pixel_array), plain=drawn(ds, scale=False), even=drawn(ds, scale=True), bins=drawn(ds, scale=ds.scaled_px.freqhist_bins(9)),
        bright=drawn(ds, max_px=80, cmap='gray'), one=drawn(ds, frames=1), force=np_of(fn.dcmread(force=True).pixel_array), pil=np_of(PILDicom.create(fn)))
def windows(fn):
    ds = fn.dcmread(True)
    return dict(windowed=np_of(ds.windowed(*dicom_windows.brain)), named=np_of(ds.windowed(w=254, l=100)), drawn=drawn(ds, scale=dicom_windows.brain)[0][0],
        share=ds.pct_in_window(*dicom_windows.brain), share_named=ds.pct_in_window(w=8, l=32))
files = sorted(root.glob('ct*.dcm'))
res = dict(methods={o.name:methods(o) for o in files}, windows={o.name:windows(o) for o in files if 'broken' not in o.name})
res['rows'] = pd.DataFrame.from_dicoms([o for o in files if 'broken' not in o.name], px_summ=True)
res['header_rows'] = pd.DataFrame.from_dicoms(files, px_summ=False, window=dicom_windows.subdural)
res['side_by_side'] = pd.DataFrame.from_dicoms(files, n_workers=2, px_summ=False)
'''

FRAMES = '''
ds = root.joinpath('frames.dcm').dcmread()
res['frames'] = dict(scaled_px=np_of(ds.scaled_px), drawn=drawn(ds, frames=2)[0], hist=np_of(ds.hist_scaled()))
'''

GUARD = '''
from rsna_ich.core.errors import DicomError
def refused(f):
    try: return f'gave {f()}'
    except DicomError as e: return str(e)
mr,ct,damaged = [root/f'{o}.dcm' for o in ('mr', 'ct_16', 'damaged')]
res['refused'] = [refused(o) for o in (mr.dcmread, lambda: mr.dcmread(force=True), lambda: mr.dcmread(True), lambda: mr.hu, lambda: mr.pixels, lambda: mr.windowed(80, 40),
    lambda: pd.DataFrame.from_dicoms([mr]))]
res['damaged'] = [refused(o) for o in (damaged.dcmread, lambda: damaged.dcmread(force=True))]
ds = ct.dcmread()
axs = ct.show('brain', 'subdural')
res['ours'] = dict(pixels=ds.pixels, hu=ds.hu, hu16=ct.hu16, stored=ct.pixels, brain=ds.windowed('brain'), share=ct.pct_in_window('brain'), panels=len(axs), grey=ds.show().images[0].get_array().data,
    of=[v.__module__ for v in (Path.dcmread, Path.show, Path.windowed, type(ds).windowed, type(ds).show, type(ds).pixels.fget)])
'''
LAST = "\nPath(sys.argv[2]).write_bytes(pickle.dumps(res))\n"

FORKS = '''
import os, pickle, sys, traceback
import fastai.vision.all, kornia, matplotlib.pyplot, pyarrow, scipy.ndimage, skimage # the slow part of every order
assert not [o for o in sys.modules if o.startswith(('rsna_ich', 'fastai.medical'))]
for root,out,code in pickle.load(sys.stdin.buffer):
    if os.fork() == 0:
        try:
            sys.argv[1:] = root,out
            exec(code, dict(__name__='__main__'))
        except BaseException: traceback.print_exc()
        os._exit(0)
    os.wait()
'''

def answers(jobs):
    "What each of `jobs` (folder, file to write, script) finds in a process of its own, which has loaded neither library yet"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FORKS], input=pickle.dumps([tuple(map(str, o)) for o in jobs]), capture_output=True)
    assert all(out.is_file() for _,out,_ in jobs), done.stderr.decode()[-3000:]
    return [pickle.loads(out.read_bytes()) for _,out,_ in jobs]

@pytest.fixture(scope='module')
def slices(tmp_path_factory):
    "CT slices in three codings, two frames in one file, an MR, and a file cut short"
    root = tmp_path_factory.mktemp('slices')
    hu = phantom_study(seed=3, size=64, subtypes=('subdural',)).hu
    mid = len(hu)//2
    for name,coding in dict(ct_16=(16,1,-1024), ct_12=(12,0,-1024), ct_broken=(12,0,0)).items(): write_dicom(root/f'{name}.dcm', hu[mid], coding)
    write_dicom(root/'mr.dcm', hu[mid], Modality='MR')
    write_dicom(root/'frames.dcm', np.concatenate(list(hu[mid:mid+2])), Rows=64, NumberOfFrames=2)
    (root/'damaged.dcm').write_bytes((root/'ct_16.dcm').read_bytes()[:-999])
    return root

@pytest.fixture(scope='module')
def found(slices, tmp_path_factory):
    "The answers of fastai alone and in every order, by name"
    scripts = {'alone':THEIRS + METHODS + FRAMES} | {k:v + METHODS + FRAMES + GUARD for k,v in ORDERS.items()}
    folders = [copytree(slices, tmp_path_factory.mktemp('found')/'slices') for _ in scripts]
    return dict(zip(scripts, answers([(o, o/'answers', code + LAST) for o,code in zip(folders, scripts.values())])))

def same(a, b):
    "Equal in type, shape and every value"
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(v, b[k]) for k,v in a.items())
    if isinstance(a, list | tuple): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray): return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b

def test_the_comparison_sees_a_difference():
    x = dict(a=np.arange(3.), b=[np.ones(2), 'gray'])
    assert same(x, dict(a=np.arange(3.), b=[np.ones(2), 'gray']))
    for y in (dict(a=np.arange(3.)), x | dict(a=np.arange(3)), x | dict(b=[np.ones(2), 'bone']), x | dict(b=[np.ones(3), 'gray'])): assert not same(x, y)

@pytest.mark.parametrize('order', ORDERS)
def test_fastais_methods_give_what_they_give_alone(found, order):
    alone,got = found['alone'],found[order]
    differ = [(name, k) for name,methods in alone['methods'].items() for k,v in methods.items() if not same(v, got['methods'][name][k])]
    assert differ == []
    assert same(alone['frames'], got['frames'])
    assert alone['methods']['ct_16.dcm']['mask'].any() and alone['methods']['ct_16.dcm']['kind'] == ('Tensor', 'torch.float32')

@pytest.mark.parametrize('order', ORDERS)
def test_windows_of_both_agree(found, order):
    "Ours answers here, in NumPy"
    for name,theirs in found['alone']['windows'].items():
        for k,v in found[order]['windows'][name].items(): np.testing.assert_allclose(v, theirs[k], atol=1e-6, err_msg=f'{name} {k}')

@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('kind', ['rows', 'header_rows', 'side_by_side'])
def test_from_dicoms(found, order, kind):
    want,got = [found[o][kind].assign(fname=found[o][kind].fname.str.rpartition('/')[2]) for o in ('alone', order)]
    pd.testing.assert_frame_equal(got, want, rtol=1e-6)
    assert len(got) == (2 if kind == 'rows' else 3) and found[order][kind].fname.str.startswith('/').all()

@pytest.mark.parametrize('order', ORDERS)
def test_the_guard_stays(found, order):
    assert all(o.startswith('mr.dcm: the modality is MR') for o in found[order]['refused']), found[order]['refused']
    assert all('the file is truncated' in o for o in found[order]['damaged'])

@pytest.mark.parametrize('order', ORDERS)
def test_the_plain_call_is_ours(found, slices, order):
    ours = found[order]['ours']
    stored = pydicom.dcmread(slices/'ct_16.dcm').pixel_array
    assert type(ours['pixels']) is np.ndarray and np.array_equal(ours['pixels'], stored) and np.array_equal(ours['stored'], stored)
    assert np.array_equal(ours['hu'], stored - 1024.) and np.array_equal(ours['hu16'], stored - 1024) and ours['hu'].dtype == np.float32
    assert np.array_equal(ours['brain'], np.clip(ours['hu']/80, 0, 1)) and np.array_equal(ours['grey'], ours['brain'])
    assert ours['share'] == ((ours['hu'] > 0) & (ours['hu'] < 80)).mean() and ours['panels'] == 2
    assert {o.rpartition('.')[0] for o in ours['of']} == {'rsna_ich.dicom'}

# Without fastai's module

def run(code): return subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)

def test_nothing_of_fastai_is_loaded_for_it():
    done = run("import sys, rsna_ich.dicom\nassert 'pydicom' not in sys.modules\nimport rsna_ich.dicom.door, rsna_ich.dicom.display\nassert not {'fastai', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert sum(type(o).__name__ == '_FastaiFinder' for o in sys.meta_path) == 1")
    assert done.returncode == 0, done.stderr

def test_fastais_arguments_say_what_they_need(slices):
    done = run(f"import rsna_ich.dicom.display\nfrom pathlib import Path\nPath({str(slices/'ct_16.dcm')!r}).show(scale=False)")
    assert done.stderr.splitlines()[-1].startswith('TypeError: these arguments of show are for the one of fastai.medical.imaging; import that module first')

def test_a_module_that_fails_leaves_ours(tmp_path):
    "As when kornia is missing, or a later version breaks off"
    (tmp_path/'fastai'/'medical').mkdir(parents=True)
    for o in ('', 'medical'): (tmp_path/'fastai'/o/'__init__.py').touch()
    (tmp_path/'fastai'/'medical'/'imaging.py').write_text('from pathlib import Path\nPath.dcmread = lambda self, force=False: "unchecked"\nimport no_such_module\n')
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom pathlib import Path\nimport rsna_ich.dicom.door\nours = Path.dcmread\n"
        "try: import fastai.medical.imaging\nexcept ModuleNotFoundError as e: assert e.name == 'no_such_module'\nelse: raise AssertionError\nassert Path.dcmread is ours")
    assert done.returncode == 0, done.stderr

def test_others_methods_are_left_alone():
    "Only what is ours is put back: a third library keeps or loses its methods as it would without us"
    done = run("from pathlib import Path\nimport rsna_ich.dicom.door\nfrom pydicom import Dataset\ndef mine(self): return 'mine'\nPath.png16read = Dataset.zoom = mine\n"
        "import fastai.medical.imaging\nassert Path.png16read is not mine and Dataset.zoom is not mine and Path.dcmread.__module__ == 'rsna_ich.dicom.door'")
    assert done.returncode == 0, done.stderr

def test_fastais_source_can_still_be_read():
    done = run("import inspect, importlib.util, rsna_ich.dicom.door, fastai.medical.imaging as m\nassert 'def mask2bbox' in inspect.getsource(m.mask2bbox) == inspect.getsource(m.mask2bbox)\n"
        "assert 'hist_scaled' in m.__loader__.get_source(m.__name__) and importlib.util.find_spec(m.__name__).origin == m.__file__")
    assert done.returncode == 0, done.stderr
