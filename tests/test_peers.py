"Order, spacing, affine and HU against SimpleITK, GDCM, dcm2niix and pydicom, on phantom studies; skipped where a peer isn't installed"
import shutil, struct, subprocess
import numpy as np, pytest
from rsna_ich.dicom.door import read_hu
from rsna_ich.dicom.passes import find_passes
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.series import in_slice_order
from rsna_ich.dicom.studies import pass_table
from tests.odd_files import loaded, saved
from tests.test_hospital import write
from rsna_ich.phantom.studies import phantom_study

EVEN = [5.*i for i in range(14)]
UNEQUAL = [0., 5, 10, 15, 20, 27.5, 35, 42.5, 60, 67.5, 75, 82.5, 90, 97.5]
STUDIES = dict(plain=dict(), tilt=dict(tilt=17.), unequal=dict(at=UNEQUAL), tilted_unequal=dict(tilt=-12.5, at=UNEQUAL),
    reversed_rows=dict(code='LA'), turned=dict(code='RA', tilt=8.), mirrored=dict(code='RP'))

@pytest.fixture(scope='module')
def head(): return phantom_study(seed=11, size=64, n_slices=24).hu[4:18].astype(np.int16)

def _study(folder, head, at=EVEN, code='LP', tilt=0., **tags):
    "Valid files, named at random, in any order"
    rng = np.random.default_rng(4)
    r = np.deg2rad(tilt)
    for i in rng.permutation(len(head)):
        uids = dict(SOPClassUID='1.2.840.10008.5.1.4.1.1.2', SOPInstanceUID=f'1.2.3.{i+1}', StudyInstanceUID='1.2.3', SeriesInstanceUID='1.2.4', FrameOfReferenceUID='1.2.5')
        place = dict(ImagePositionPatient=[-100, -90, at[i]], InstanceNumber=int(i+1), SliceThickness=5., KVP=120, Manufacturer='none', PatientName='P')
        ids = dict(PatientID='P', StudyDate='20260101', StudyTime='100000', SeriesNumber=2, AcquisitionNumber=1, ImageType=['ORIGINAL', 'PRIMARY', 'AXIAL'])
        path = write(folder, head[i], int(i), f'{rng.integers(2**40):x}.dcm', code, tilt, **uids | place | ids | tags)
        ds = loaded(path.read_bytes())
        ds.file_meta.MediaStorageSOPClassUID,ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        path.write_bytes(saved(ds, enforce_file_format=True))
    return folder

@pytest.fixture(scope='module', params=STUDIES)
def study(request, head, tmp_path_factory): return _study(tmp_path_factory.mktemp(request.param), head, **STUDIES[request.param])

def _ours(folder): return [str(folder/o) for o in in_slice_order(scan(folder)).path]

def _towards_head(paths):
    "A peer's order, turned around where it runs to the feet"
    first,last = (loaded(open(p, 'rb').read()).ImagePositionPatient[2] for p in (paths[0], paths[-1]))
    return list(paths) if first < last else list(paths)[::-1]

def test_order_and_spacing_are_simpleitks(study):
    sitk = pytest.importorskip('SimpleITK')
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(study), '1.2.4')
    assert _towards_head(names) == _ours(study)
    if study.name.startswith(('plain', 'reversed', 'mirrored')): # of tilted slices SimpleITK gives the distance along the table
        image = sitk.ReadImage(names)
        t = pass_table(scan(study))
        assert t.spacing[0] == pytest.approx(image.GetSpacing()[2], abs=1e-4)
    steps = np.diff(find_passes(scan(study)).position[np.argsort(find_passes(scan(study)).position)])
    along = np.array([loaded(open(p, 'rb').read()).ImagePositionPatient for p in _ours(study)], float)
    assert np.allclose(np.abs(np.diff(along, axis=0)) @ np.abs(_normal(study)), steps, atol=1e-4)

def _normal(folder):
    ds = loaded(next(folder.iterdir()).read_bytes())
    return np.cross(*np.array(ds.ImageOrientationPatient, float).reshape(2, 3))

def test_order_and_spacing_are_gdcms(study):
    gdcm = pytest.importorskip('gdcm')
    sorter = gdcm.IPPSorter()
    sorter.SetComputeZSpacing(True)
    sorter.SetZSpacingTolerance(1e-3)
    sorter.Sort([str(p) for p in study.iterdir()])
    assert _towards_head(sorter.GetFilenames()) == _ours(study)
    if 'unequal' not in study.name: assert pass_table(scan(study)).spacing[0] == pytest.approx(sorter.GetZSpacing(), abs=1e-3)

def test_hu_are_pydicoms_and_simpleitks(study):
    sitk = pytest.importorskip('SimpleITK')
    for p in study.iterdir():
        ds = loaded(p.read_bytes())
        hu = read_hu(p)
        assert np.array_equal(hu, ds.pixel_array*float(ds.RescaleSlope) + float(ds.RescaleIntercept))
        assert np.array_equal(hu, sitk.GetArrayFromImage(sitk.ReadImage(str(p)))[0])

def _nifti(path):
    "The affine and the shape of a NIfTI file, read by hand (header of 348 bytes)"
    head = path.read_bytes()[:348]
    return np.array([*struct.unpack('<12f', head[280:328]), 0, 0, 0, 1]).reshape(4, 4), struct.unpack('<8h', head[40:56])[1:4]

def _affine(folder):
    "Voxel to patient (LPS, mm) of a series of equal steps, from the header table in slice order"
    df = in_slice_order(scan(folder))
    first,last = df.iloc[0], df.iloc[-1]
    origin,end = (o[['x', 'y', 'z']].to_numpy(float) for o in (first, last))
    row,col = (first[c.split()].to_numpy(float) for c in ('ix iy iz', 'jx jy jz'))
    return np.c_[row*first.spacing_x, col*first.spacing_y, (end-origin)/(len(df)-1), origin], len(df)

def _corners(matrix, shape):
    "Where the corners of a volume lie, [8,3], in any order of the axes"
    far = np.array(np.meshgrid(*[(0, n-1) for n in shape])).reshape(3, -1)
    return np.array(sorted(map(tuple, (matrix[:,:3] @ far + matrix[:,3:]).T.round(2))))

@pytest.mark.parametrize('code', ['LP', 'LA', 'RA', 'RP'])
def test_the_affine_is_dcm2niixs(head, tmp_path, code):
    "Tilted stacks are left out: there dcm2niix shears the affine by the tangent of the tilt, so that it isn't the slices' own any more"
    if not shutil.which('dcm2niix'): pytest.skip('dcm2niix is not installed')
    folder = tmp_path/'s'
    folder.mkdir()
    _study(folder, head, code=code)
    subprocess.run(['dcm2niix', '-b', 'n', '-z', 'n', '-f', 'v', '-o', str(tmp_path), str(folder)], check=True, capture_output=True)
    theirs,shape = _nifti(tmp_path/'v.nii')
    matrix,n = _affine(folder)
    ours = np.diag([-1, -1, 1]) @ matrix # NIfTI has x to the right and y to the front
    assert shape == (64, 64, n)
    np.testing.assert_allclose(_corners(theirs[:3], shape), _corners(ours, shape), atol=.02)

def test_mixed_kernels_are_two_volumes_for_all(head, tmp_path):
    "Two kernels under one series id: SimpleITK sees one list, we two passes, each in GDCM's order"
    gdcm = pytest.importorskip('gdcm')
    for kernel in ('H30s', 'H60s'):
        (tmp_path/kernel).mkdir()
        _study(tmp_path/kernel, head, ConvolutionKernel=kernel)
    df = scan(tmp_path)
    passes = find_passes(df)
    for n in set(passes.number):
        mine = np.flatnonzero(passes.number == n)
        assert df.kernel[mine].nunique() == 1 and len(mine) == len(head)
        sorter = gdcm.IPPSorter()
        sorter.Sort([str(tmp_path/o) for o in df.path[mine]])
        ordered = [str(tmp_path/o) for o in df.path[mine[np.argsort(passes.position[mine])]]]
        assert _towards_head(sorter.GetFilenames()) == ordered
