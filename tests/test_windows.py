"What the windows notebook can't show: laws under random input, peers, real slices, kornia's containers, devices."
import json, pickle, subprocess, sys
import kornia.augmentation as K, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from kornia.augmentation.container import ImageSequential
from kornia.filters import gaussian_blur2d
from scipy import ndimage
from rsna_ich.core.errors import DataError
from rsna_ich.core.windows import ct_windows, get_window
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.reader import SliceReader
from rsna_ich.vision.hu import AIR, HUModule, as_hu
from rsna_ich.vision.windowing import HistScale, RandomWindow, Window, freqhist_bins
from rsna_ich.vision.crop import CropHead, FitSquare
from rsna_ich.vision.augment import Augment
from rsna_ich.vision.chain import CTTransform

settings.register_profile('shared machine', deadline=None)
settings.load_profile('shared machine')
hus = st.integers(-32768, 32767)
windows = st.one_of(st.sampled_from(sorted(ct_windows)), st.tuples(st.integers(1, 4000), st.integers(-1000, 3000)))

def disc(n=128, cx=.5, cy=.5, r=.3, hu=35., m=None):
    "An n x m picture of air with one disc of `hu`, its place and radius in shares of the sides"
    y,x = torch.meshgrid((torch.arange(n)+.5)/n, (torch.arange(m or n)+.5)/(m or n), indexing='ij')
    return torch.where((x-cx)**2 + (y-cy)**2 < r**2, hu, AIR)[None,None]

def batch(n=4, side=64, seed=0): return torch.randint(-1024, 3072, (n, 1, side, side), generator=torch.Generator().manual_seed(seed)).float()

def close(a, b, eps=1e-3): assert torch.allclose(a, b, atol=eps, rtol=0), (a-b).abs().max()

# -- the door

@pytest.mark.parametrize('bad', [torch.zeros(512, 512), torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8).bool(), np.zeros((1, 1, 8, 8)), None,
    torch.zeros(1, 1, 8, 8, dtype=torch.complex64), torch.zeros(0, 1, 8, 8)])
@pytest.mark.parametrize('step', [as_hu, Window(), CropHead(8), CTTransform(8)])
def test_wrong_batches(step, bad):
    with pytest.raises(DataError, match=r'\[B,1,H,W\]'): step(bad)

@pytest.mark.parametrize('make,says', [(lambda: Window(['brian']), 'brian'), (lambda: Window(kind='cubic'), 'cubic'), (lambda: Window([(0, 40)]), 'width'),
    (lambda: RandomWindow(width_jitter=1), 'width_jitter'), (lambda: HistScale([1.]), 'rising'), (lambda: HistScale([1., 1.]), 'rising'),
    (lambda: CTTransform(0), 'size'), (lambda: CTTransform(windows=[]), 'at least one'), (lambda: CTTransform(mean=[.5]*2), '3 channels'),
    (lambda: CTTransform(std=0.), 'std'), (lambda: freqhist_bins(torch.full((9,), -1000.)), 'several values'), (lambda: CTTransform(64.5), 'size')])
def test_wrong_settings(make, says):
    with pytest.raises(DataError, match=says): make()

def test_a_fastai_tensor_comes_out_plain():
    from fastai.torch_core import TensorImage
    out = CTTransform(32, crop=True, aug=True, jitter=True)(TensorImage(batch()))
    assert type(out) is torch.Tensor and out.dtype is torch.float32

def test_import_leaves_fastai_alone():
    code = "import sys, rsna_ich.vision.chain; sys.exit(any(o.split('.')[0]=='fastai' for o in sys.modules))"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

# -- windows

@given(st.lists(windows, min_size=1, max_size=4), st.lists(hus, min_size=2, max_size=20), st.sampled_from(['linear', 'sigmoid']))
def test_window_law(wins, hu, kind):
    x = torch.tensor(sorted(hu)).view(1, 1, 1, -1)
    y = Window(wins, kind)(x)
    assert y.shape == (1, len(wins), 1, len(hu)) and y.min() >= 0 and y.max() <= 1
    assert (y.diff(dim=-1) >= 0).all()
    for i,w in enumerate(map(get_window, wins)):
        t = (np.array(sorted(hu), dtype=np.float64)-w.level)/w.width
        want = np.clip(t+.5, 0, 1) if kind=='linear' else 1/(1+np.exp(-4*np.clip(t, -100, 100)))
        np.testing.assert_allclose(y[0,i,0], want, atol=1e-5)

@pytest.mark.parametrize('kind', ['linear', 'sigmoid'])
def test_window_agrees_with_pydicom(kind):
    pixels = pytest.importorskip('pydicom.pixels')
    from pydicom.dataset import Dataset
    ds, x = Dataset(), np.arange(-200, 300, dtype=np.int16)
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 40, 80, 'LINEAR_EXACT' if kind=='linear' else 'SIGMOID'
    ds.PhotometricInterpretation, ds.BitsStored, ds.PixelRepresentation = 'MONOCHROME2', 16, 1
    got = Window(['brain'], kind)(torch.tensor(x).view(1, 1, 1, -1)).flatten()
    want = (pixels.apply_windowing(x, ds).astype(np.float64)+32768)/65535
    np.testing.assert_allclose(got, want, atol=2e-4)

def test_window_in_half_precision_surroundings():
    x = (batch()+.3).short()
    with torch.autocast('cpu', torch.bfloat16): out = Window()(x)
    assert out.dtype is torch.float32
    close(out, Window()(x), 0)
    close(Window().half()(x), Window()(x), 0)

@pytest.mark.parametrize('step', [Window(), HistScale([-100., 0., 40., 1000.]), FitSquare(32)])
def test_steps_compile_to_one_graph(step): close(torch.compile(step, backend='eager', fullgraph=True)(batch()), step(batch()), 1e-6)

@given(st.integers(0, 2**31), st.floats(0, .9), st.floats(0, 50))
@settings(max_examples=30)
def test_random_window(seed, wj, lj):
    rw, x = RandomWindow(['brain', 'subdural'], width_jitter=wj, level_jitter=lj), batch(3, 8)
    torch.manual_seed(seed)
    a = rw(x)
    torch.manual_seed(seed)
    close(rw(x), a, 0)
    w,l = rw.width.view(-1, 1, 1),rw.level.view(-1, 1, 1)
    inside = (x > l-w*(1-wj)/2+lj) & (x < l+w*(1-wj)/2-lj)
    assert a.min() >= 0 and a.max() <= 1 and (a[inside] > 0).all() and (a[inside] < 1).all()
    close(rw.eval()(x), Window(['brain', 'subdural'])(x), 0)

def test_random_window_differs_between_slices():
    out = RandomWindow()(torch.full((64, 1, 1, 1), 40.)).squeeze()
    assert out.std(0).min() > .005 and len(out.unique(dim=0)) == 64

# -- histogram bins

@given(st.integers(0, 1000), st.integers(2, 60))
@settings(max_examples=40)
def test_bins_hold_equal_shares(seed, n):
    v = torch.randn(20_000, generator=torch.Generator().manual_seed(seed))*100
    b = freqhist_bins(v, n, above=-1e9)
    share = torch.histogram(v, b).hist/len(v)
    assert len(b) == n+2 and (b.diff() > 0).all()
    close(share[1:-1], torch.full((n-1,), 1/n), 2e-3)

@given(st.lists(st.integers(-1000, 3000), min_size=2, max_size=30, unique=True), st.lists(st.floats(-3000, 5000, width=32), min_size=1, max_size=30))
def test_hist_scale_is_numpy_interp(bins, hu):
    bins = sorted(bins)
    got = HistScale(bins)(torch.tensor(hu).view(1, 1, 1, -1)).flatten()
    np.testing.assert_allclose(got, np.interp(hu, bins, np.linspace(0, 1, len(bins))), atol=2e-5)

def test_hist_scale_agrees_with_fastai():
    imaging = pytest.importorskip('fastai.medical.imaging')
    x = batch()
    assert imaging
    close(HistScale.fit(x, n_bins=50, above=-2000)(x), x.hist_scaled(x.freqhist_bins(50)).float(), 5e-3)

def test_hist_scale_is_saved_twice_over():
    a, b = HistScale.fit(batch()), HistScale.fit(batch(seed=1))
    b.load_state_dict(a.state_dict())
    assert b.tolist() == a.tolist() == HistScale(json.loads(json.dumps(a.tolist()))).tolist()

def test_bins_from_a_sample_are_close(): close(freqhist_bins(batch(8, 256), 20, sample=50_000), freqhist_bins(batch(8, 256), 20), 50)

# -- crop

@given(st.floats(.35, .65), st.floats(.35, .65), st.floats(.28, .33), st.sampled_from([96, 128, 256, 512]))
@settings(max_examples=25)
def test_box_finds_the_disc(cx, cy, r, n):
    box = CropHead(margin=0).boxes(disc(n, cx, cy, r))[0]/n
    close(box, torch.tensor([cx-r, cy-r, cx+r, cy+r]), 1.6/64)

def test_box_does_not_depend_on_size():
    big = CropHead().boxes(disc(512, .45, .55, .3))/512
    close(CropHead().boxes(disc(128, .45, .55, .3))/128, big, 1.1/64)

@pytest.mark.parametrize('thick', [2, 6, 12, 24])
def test_headrest_is_left_out(thick):
    hu = disc(512, .5, .4, .3)
    alone = CropHead().boxes(hu)
    hu[:,:,450:450+thick,20:490] = 300
    hu[:,:,60:460,20:20+thick] = 300
    close(CropHead().boxes(hu), alone, 0)

@pytest.mark.parametrize('hu', [torch.full((1, 1, 64, 64), -1000.), disc(r=.05), torch.full((1, 1, 64, 64), 40.)])
def test_nothing_to_crop_keeps_everything(hu):
    n = hu.shape[-1]
    close(CropHead().boxes(hu)[0], torch.tensor([0., 0, n, n]), 1e-4)
    close(CropHead()(hu), hu, 1e-2)

def test_crop_keeps_the_aspect():
    out = CropHead(128)(disc(300, m=400, r=.3).clamp(min=AIR))
    dense = out[0,0] > -500
    h,w = (dense.any(d).sum().item() for d in (1, 0))
    assert abs(w/h - 4/3) < .05
    assert (out[0,0,[0,-1]] == AIR).all()

@pytest.mark.parametrize('size', [8, 32, 50])
def test_crop_samples_where_it_should(size):
    y,x = torch.meshgrid(torch.arange(64)+.5, torch.arange(64)+.5, indexing='ij')
    crop = CropHead(size)
    crop.boxes = lambda hu: torch.tensor([[16., 8., 48., 40.]])
    centre = (torch.arange(size)+.5)/size*32
    close(crop((3*x + 5*y)[None,None])[0,0], 3*(16+centre)[None] + 5*(8+centre)[:,None], 1e-2)

def test_crop_outside_is_air():
    crop = CropHead(32)
    crop.boxes = lambda hu: torch.tensor([[-32., -32., 32., 32.]])
    out = crop(torch.full((1, 1, 64, 64), 40.))[0,0]
    assert (out[:15] == AIR).all() and (out[:,:15] == AIR).all()
    close(out[17:,17:], torch.full((15, 15), 40.), 1e-3)

def test_slices_of_a_batch_do_not_meet():
    x = torch.cat([disc(cx=.4), disc(r=.05), disc(cy=.6, r=.25), torch.full((1, 1, 128, 128), AIR)])
    t = CTTransform(48, crop=True).eval()
    close(t(x), torch.cat([t(o[None]) for o in x]), 1e-5)
    close(t(x.flip(0)), t(x).flip(0), 1e-5)

def largest(mask):
    labels,n = ndimage.label(mask, np.ones((3, 3)))
    return labels == 1+np.argmax(ndimage.sum_labels(mask, labels, range(1, n+1))) if n else mask

def test_mask_agrees_with_scipy():
    torch.manual_seed(0)
    noise = gaussian_blur2d(torch.randn(16, 1, 64, 64), 9, (2., 2.))*4000
    crop = CropHead(min_area=0.)
    dense = gaussian_blur2d((noise > crop.tissue).float(), 7, (1., 1.), 'replicate') > .5
    assert (crop.mask(noise)[:,0].numpy() == np.stack([largest(o[0].numpy()) for o in dense])).all()

# -- fitting, augmentation, the chain

@given(st.integers(5, 90), st.integers(5, 90), st.integers(4, 100))
@settings(max_examples=30)
def test_fit_square_stays_in_range(h, w, size):
    x = torch.randint(-1000, 3000, (2, 1, h, w)).float()
    out = FitSquare(size)(x)
    assert out.shape == (2, 1, size, size) and out.min() >= AIR-.5 and out.max() <= x.max()+.5

def test_fit_square_keeps_the_mean(): close(FitSquare(32)(batch(4, 128)).mean(), batch(4, 128).mean(), 5)

def test_augment_fills_with_air_and_never_with_water():
    aug = Augment(degrees=45, translate=.3, affine=1., flip=.5)
    out = aug(torch.full((32, 1, 64, 64), AIR))
    close(out, torch.full_like(out, AIR), 1e-2)
    out = aug(torch.full((32, 1, 64, 64), 1000.))
    assert out.min() < AIR+.01 and out.max() < 1000.01

def test_augment_is_reproducible_and_off_in_eval():
    aug, x = Augment(erase=.5), batch(8)
    torch.manual_seed(7)
    a = aug(x)
    torch.manual_seed(7)
    close(aug(x), a, 0)
    assert not torch.equal(aug(x), a)
    close(aug.eval()(x), x, 0)

def test_flip_alone_mirrors():
    x = batch(8)
    close(Augment(affine=0., flip=1.)(x), x.flip(-1), 1e-3)

def test_erase_fills_with_the_asked_hu():
    out = Augment(affine=0., flip=0., erase=1., erase_hu=55.)(torch.full((8, 1, 64, 64), 500.))
    share = ((out-55).abs() < .01).float().mean((1, 2, 3))
    assert (share > .005).all() and (share < .08).all() and (((out-55).abs() < .01) | ((out-500).abs() < .01)).all()

@pytest.mark.parametrize('container', [ImageSequential, K.AugmentationSequential])
def test_composes_in_kornia(container):
    kw = dict(data_keys=['input']) if container is K.AugmentationSequential else {}
    chain = container(CropHead(32), Window(), K.RandomHorizontalFlip(p=1.), **kw)
    x = torch.cat([disc(64), disc(64, .4)])
    close(chain(x), Window()(CropHead(32)(x)).flip(-1), 1e-5)

options = st.fixed_dictionaries(dict(windows=st.lists(windows, min_size=1, max_size=4), kind=st.sampled_from(['linear', 'sigmoid'])),
    optional=dict(size=st.sampled_from([None, 16, 40]), crop=st.sampled_from([True, False, dict(margin=.1)]), hist=st.just([-50., 10., 60.]),
        aug=st.sampled_from([True, dict(degrees=5, scale=(.8, 1.2))]), jitter=st.sampled_from([True, dict(level_jitter=3.)]),
        mean=st.just(.4), std=st.just(.2)))

@given(options)
@settings(max_examples=40)
def test_config_makes_the_same_chain(options):
    x = torch.cat([disc(64), disc(64, .4)]).short()
    a = CTTransform(**options)
    b = CTTransform(**json.loads(json.dumps(a.config)))
    assert a.config == b.config
    for mode in (True, False):
        a.train(mode), b.train(mode)
        torch.manual_seed(0)
        ya = a(x)
        torch.manual_seed(0)
        close(b(x), ya, 0)
    assert ya.shape == (2, a.n_channels, *[options.get('size') or 64]*2) and ya.dtype is torch.float32 and ya.isfinite().all()

def test_chain_survives_the_extremes():
    x = disc(64).short()
    x[0,0,:4], x[0,0,32,32], x[0,0,40,40] = -32768, 32767, -3024
    out = CTTransform(16, crop=True).eval()(x)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1

def test_padding_below_air_changes_nothing():
    x = disc(64)
    y = torch.where(x==AIR, -3024, x)
    close(CTTransform(24).eval()(y), CTTransform(24).eval()(x), 0)

def test_chain_under_autocast_is_the_chain():
    t, x = CTTransform(24, crop=True, mean=.5, std=.5).eval(), torch.cat([disc(64), disc(64, .4)])
    with torch.autocast('cpu', torch.bfloat16): out = t(x)
    close(out, t(x), 1e-6)

def test_size_can_grow():
    t = CTTransform(16, crop=True).eval()
    for size in (16, 24, 32):
        t.size = size
        assert t(disc(64)).shape[-1] == t.config['size'] == size

def test_chain_pickles(): close(pickle.loads(pickle.dumps(CTTransform(16).eval()))(disc(64)), CTTransform(16).eval()(disc(64)), 0)

def test_a_module_without_encodes_says_so():
    with pytest.raises(AttributeError, match='encodes'): HUModule()(disc())

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_gpu_is_the_cpu(train, dtype):
    x = torch.cat([disc(256), disc(256, .4), disc(256, r=.05)])
    t = CTTransform(96, crop=True, hist=[-50., 10., 60.], aug=True, jitter=True, mean=.5, std=.5).train(train)
    torch.manual_seed(0)
    cpu = t(x)
    torch.manual_seed(0)
    with torch.autocast('cuda', dtype): gpu = t.cuda()(x.cuda()).cpu()
    close(gpu, cpu)

# -- real slices

@pytest.mark.real
def test_real_heads_are_inside_their_boxes(real):
    df = scan(real/'dicom')[:96]
    hu = SliceReader(df, 512).read(range(96)).hu(512).clamp(AIR, 3071)
    crop = CropHead(128)
    boxes, found = crop.boxes(hu), crop.mask(hu).flatten(1).any(1)
    kept = (hu > 0) & (hu < 80)
    y,x = torch.meshgrid(torch.arange(512)+.5, torch.arange(512)+.5, indexing='ij')
    x0,y0,x1,y1 = boxes.view(-1, 4, 1, 1).unbind(1)
    inside = ((x > x0) & (x < x1) & (y > y0) & (y < y1))[:,None]
    share = (kept*inside).sum((1, 2, 3)) / kept.sum((1, 2, 3)).clamp(min=1)
    assert found.float().mean() > .9 and share[found].quantile(.1) > .94 and share[found].median() > .99
    side = boxes[found,2]-boxes[found,0]
    assert side.median() < .85*512
