"The phantom: the same bytes for the same seed, HU exact in every coding, labels that are the masks, and refusals"
import ast, hashlib, warnings
import numpy as np, pandas as pd, pydicom, pytest
from hypothesis import given, settings, strategies as st
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS, SUBTYPES
from rsna_ich.dicom.elements import read_header
from rsna_ich.dicom.door import read_hu
from rsna_ich.dicom.header_rows import HEADER_COLS, header_frame
from rsna_ich.dicom.scanning import scan
from rsna_ich.phantom.bleeds import PHANTOM_PREVALENCE
from rsna_ich.phantom.studies import MIN_BLEED_AREA, phantom_montage, phantom_study, phantom_volumes
from rsna_ich.phantom.files import (BROKEN_CODINGS, MAX_SEED, MAX_STUDIES, PHANTOM_CODINGS, _id, _ids, dicom_header, file_meta,
    write_dicom, write_phantom)
from rsna_ich.phantom.headers_like import _data_bytes, _meta_bytes, write_headers_like

pytestmark = pytest.mark.filterwarnings('ignore:Invalid value for VR UI')  # RSNA's ids are no UIDs

def digest(folder): return {str(p.relative_to(folder)):hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}

def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds = pydicom.dcmread(path)
        return ds, ds.pixel_array

def to_hu(ds, px):
    "HU by pydicom's pixels and the header; by the known repair where the coding is broken"
    key = ds.BitsStored, ds.PixelRepresentation, int(ds.RescaleIntercept)
    if key in BROKEN_CODINGS: return (px.astype(int)+1000)%4096-1000
    return px.astype(float)*float(ds.RescaleSlope)+float(ds.RescaleIntercept)

def holds(coding):
    "The lowest and highest HU that a coding can store"
    bits,signed,icpt = coding
    if coding in BROKEN_CODINGS: return -1000, 3095
    return ((-1<<bits-1)+icpt, (1<<bits-1)-1+icpt) if signed else (icpt, (1<<bits)-1+icpt)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('phantom')/'a'
    return out, write_phantom(out, studies=6, size=96, seed=3, prevalence={k:.15 for k in SUBTYPES}, codings=list(PHANTOM_CODINGS))

def test_same_seed_same_bytes(folder, tmp_path):
    out,df = folder
    again = write_phantom(tmp_path/'b', studies=6, size=96, seed=3, prevalence={k:.15 for k in SUBTYPES}, codings=list(PHANTOM_CODINGS))
    pd.testing.assert_frame_equal(df, again)
    assert digest(out) == digest(tmp_path/'b')

def test_more_studies_keep_the_first(folder, tmp_path):
    out,df = folder
    write_phantom(tmp_path/'b', studies=1, size=96, seed=3, prevalence={k:.15 for k in SUBTYPES}, codings=list(PHANTOM_CODINGS))
    first = {k:v for k,v in digest(tmp_path/'b').items() if k.startswith('dicom')}
    assert first.items() <= digest(out).items()

def test_seeds_differ():
    a,b = phantom_study(1, 64, n_slices=4), phantom_study(2, 64, n_slices=4)
    assert (a.hu != b.hu).mean() > .3

@given(st.tuples(st.integers(0, MAX_SEED), st.integers(0, MAX_STUDIES-1)), st.tuples(st.integers(0, MAX_SEED), st.integers(0, MAX_STUDIES-1)))
def test_ids_collide_never(a, b):
    x,y = _ids(*a), _ids(*b)
    assert [len(x[k]) for k in ('patient', 'study', 'series')] == [11, 13, 13]
    assert (a == b) == (x['patient'] == y['patient']) == (x['study'] == y['study']) == (x['series'] == y['series'])
    assert x['study'] != x['series']

def test_ids_are_a_permutation(): assert len({_id(4, (n,16)) for n in range(1<<16)}) == 1<<16

def test_patients_of_two_seeds_are_disjoint(folder, tmp_path):
    df,other = folder[1], write_phantom(tmp_path/'b', studies=2, size=64, seed=4, n_slices=3)
    for k in ('sop', 'patient', 'study', 'series'): assert not set(df[k]) & set(other[k])
    assert df.sop.is_unique and df.groupby('patient').study.nunique().eq(1).all()

@pytest.mark.parametrize('implicit', [False, True])
@pytest.mark.parametrize('coding', PHANTOM_CODINGS)
def test_codings_give_back_hu(coding, implicit, tmp_path):
    hu = np.random.default_rng(0).integers(-1024, 3072, (48, 40)).astype(np.int16)
    hu.flat[:4] = -1024, -1000, 0, 3071
    ds,px = read(write_dicom(tmp_path/'ID_0123456ab.dcm', hu, coding, implicit))
    assert (ds.BitsStored, ds.PixelRepresentation, int(ds.RescaleIntercept)) == coding
    assert ds.file_meta.TransferSyntaxUID.is_implicit_VR == implicit and ds.SOPInstanceUID == 'ID_0123456ab'
    np.testing.assert_array_equal(to_hu(ds, px), np.clip(hu, *holds(coding)))

@settings(deadline=None, max_examples=40)
@given(hu=st.lists(st.integers(-2000, 4000), min_size=4, max_size=4), coding=st.sampled_from(list(PHANTOM_CODINGS)))
def test_any_value_is_clipped_never_wrapped(hu, coding, tmp_path_factory):
    hu = np.array(hu, np.int16).reshape(2, 2)
    ds,px = read(write_dicom(tmp_path_factory.mktemp('x')/'ID_1.dcm', hu, coding))
    np.testing.assert_array_equal(to_hu(ds, px), np.clip(hu, *holds(coding)))

def test_padding_lies_outside_the_circle(tmp_path):
    ds,px = read(write_dicom(tmp_path/'p.dcm', np.zeros((64, 64), np.int16), (16,1,-1024), padding=-2000))
    assert px[0,0] == px[-1,-1] == -2000 and px[32,32] == px[32,1] == 1024
    assert .15 < (px == -2000).mean() < .27

def test_header_is_like_the_set(folder):
    out,df = folder
    for r in df.groupby('series').nth(4).itertuples():
        ds,px = read(out/r.path)
        assert (ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID) == (r.patient, r.study, r.series, r.sop)
        assert ds.StudyID == '' and ds.Modality == 'CT' and ds.PhotometricInterpretation == 'MONOCHROME2' and ds.BitsAllocated == 16
        assert ds.HighBit == ds.BitsStored-1 and px.shape == (ds.Rows, ds.Columns) == (96, 96) and float(ds.ImagePositionPatient[2]) == r.z
        a,b = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        assert abs(a@b) < 1e-6 and abs(np.linalg.norm(b)-1) < 1e-5

def test_slices_lie_a_thickness_apart(folder):
    out,df = folder
    for _,g in df.groupby('series'):
        pos,axes = zip(*[(ds.ImagePositionPatient, ds.ImageOrientationPatient) for ds in (read(out/p)[0] for p in g.path)])
        normal = np.cross(*np.array(axes[0], float).reshape(2, 3))
        np.testing.assert_allclose(np.diff(np.array(pos, float)@normal), 5, atol=1e-4)

def test_labels_are_the_masks(folder):
    out,df = folder
    px_mm2 = {r.series:float(read(out/r.path)[0].PixelSpacing[0])**2 for r in df.groupby('series').nth(0).itertuples()}
    seen = 0
    for study,g in df.groupby('study'):
        z = np.load(out/'masks'/f'{study}.npz')
        mask = dict(zip(z['sop'], z['mask']))
        for r in g.to_dict('records'):
            m = mask.get(r['sop'], np.zeros((1,1), np.uint8))
            area = [np.count_nonzero(m>>k&1)*px_mm2[r['series']] for k in range(5)]
            assert [r[k] for k in LABELS] == [int(m.any()), *[int(a > 0) for a in area]]
            assert all(a == 0 or a >= MIN_BLEED_AREA*(1-1e-4) for a in area)
            seen += r['any']
    assert seen > 20

def test_labels_csv_is_kaggles(folder):
    out,df = folder
    long = pd.read_csv(out/'labels.csv')
    assert list(long.columns) == ['ID', 'Label'] and len(long) == 6*len(df) and long.ID.is_unique
    assert list(long.ID[:6].str.rsplit('_', n=1).str[1]) == ['epidural', 'intraparenchymal', 'intraventricular', 'subarachnoid', 'subdural', 'any']
    k = long.ID.str.rsplit('_', n=1, expand=True)
    wide = long.assign(sop=k[0], kind=k[1]).pivot(index='sop', columns='kind', values='Label').loc[df.sop, list(LABELS)]
    np.testing.assert_array_equal(wide, df[list(LABELS)])
    vols = pd.read_csv(out/'volumes.csv').set_index('study')
    hit = df.groupby('study')[list(SUBTYPES)].max()
    np.testing.assert_array_equal(vols.loc[hit.index, list(SUBTYPES)] > 0, hit > 0)
    assert vols.n_slices.sum() == len(df)

@pytest.mark.parametrize('kind', SUBTYPES)
def test_blood_is_where_and_what_it_should_be(kind):
    ph = phantom_study(20, 256, subtypes=(kind,), faint=0)
    k = SUBTYPES.index(kind)
    m = (ph.mask>>k&1).astype(bool)
    assert (ph.mask[~m] == 0).all() and 45 < np.median(ph.hu[m]) < 85 and 1 < phantom_volumes(ph)[kind] < 250
    rows = np.nonzero(ph.labels[:,1+k])[0]
    assert len(rows) >= 2 and ph.labels[:,0].sum() == len(rows)
    dry = phantom_study(20, 256, subtypes=(), faint=0)
    far = ~m[rows].any(0)
    assert not dry.mask.any() and np.abs(ph.hu[rows][m[rows]].astype(int)-dry.hu[rows][m[rows]]).mean() > 8
    assert ph.hu.shape == dry.hu.shape and far.any()

def test_tissue_and_air():
    ph = phantom_study(5, 256, subtypes=(), faint=0)
    mid = ph.hu[len(ph.hu)//2+3]
    assert -1024 <= mid.min() and (mid < -900).mean() > .2 and mid.max() > 1000
    brain = mid[(mid > 0) & (mid < 60)]
    assert 25 < np.median(brain) < 42 and 18 <= len(phantom_study(6, 64, n_slices=20).hu) <= 20

def test_sizes_show_the_same_head():
    a,b = (phantom_study(8, s, subtypes=('epidural',), faint=0) for s in (128, 256))
    fine = b.hu.reshape(len(b.hu), 128, 2, 128, 2).mean((2, 4))
    inside = (fine > 10) & (fine < 60)
    assert np.corrcoef(a.hu[inside], fine[inside])[0,1] > .4 and np.abs(a.hu[inside]-fine[inside]).mean() < 12
    va,vb = phantom_volumes(a)['epidural'], phantom_volumes(b)['epidural']
    assert abs(va-vb) < .1*vb

def test_prevalence_over_many_studies():
    labels = [phantom_study((77, i), 64).labels for i in range(110)]
    share = dict(zip(LABELS, np.concatenate(labels).mean(0)))
    assert .09 < share['any'] < .20, share
    for k in SUBTYPES: assert abs(share[k]-PHANTOM_PREVALENCE[k]) < .4*PHANTOM_PREVALENCE[k]+.006, share
    study = np.array([o.max(0) for o in labels])
    assert .28 < study[:,0].mean() < .52
    iph,ivh = study[:,LABELS.index('intraparenchymal')], study[:,LABELS.index('intraventricular')]
    assert iph[ivh>0].mean() > .5

def test_prevalence_is_obeyed():
    none = [phantom_study(i, 64, n_slices=8, prevalence={}) for i in range(6)]
    assert not any(p.mask.any() or p.subtypes for p in none)
    assert all(phantom_study(i, 64, prevalence=dict(subdural=1.)).labels[:,LABELS.index('subdural')].any() for i in range(4))

@pytest.mark.parametrize('kw,say', [(dict(size=63), '64 to 1024'), (dict(size=1025), '64 to 1024'), (dict(studies=0), 'studies is'), (dict(seed=-1), 'seed is'),
    (dict(seed=MAX_SEED+1), 'seed is'), (dict(prevalence=dict(stroke=.1)), "'stroke'"), (dict(prevalence=dict(subdural=2)), 'share of slices'),
    (dict(codings=[(8,0,0)]), 'codings are'), (dict(codings={(12,0,0):0}), 'codings are'), (dict(codings=[]), 'codings are'), (dict(faint=2), 'faint is'),
    (dict(n_slices=0), '1 to 60')])
def test_refusals_write_nothing(kw, say, tmp_path):
    with pytest.raises(DataError, match=say) as e: write_phantom(tmp_path/'x', **kw)
    assert '\n' not in str(e.value) and not (tmp_path/'x').exists()

def test_refuses_to_mix_with_other_files(folder):
    before = digest(folder[0])
    with pytest.raises(DataError, match='already holds a dicom folder'): write_phantom(folder[0])
    assert digest(folder[0]) == before

@pytest.mark.parametrize('hu', [np.zeros((4,4)), np.zeros((2,4,4), np.int16)])
def test_write_dicom_refuses_what_is_no_slice(hu, tmp_path):
    with pytest.raises(DataError, match='2-D array of whole HU'): write_dicom(tmp_path/'x.dcm', hu)
    with pytest.raises(DataError, match='no coding'): write_dicom(tmp_path/'x.dcm', np.zeros((4,4), int), (8,0,0))
    assert not (tmp_path/'x.dcm').exists()

def test_a_stopped_run_does_not_look_finished(tmp_path, monkeypatch):
    import rsna_ich.phantom.files as P
    real,calls = P.write_dicom, []
    def stops(*a, **k):
        calls.append(1)
        if len(calls) > 5: raise OSError('disk full')
        return real(*a, **k)
    monkeypatch.setattr(P, 'write_dicom', stops)
    with pytest.raises(OSError, match='disk full'): write_phantom(tmp_path/'x', studies=1, size=64)
    assert not (tmp_path/'x'/'labels.csv').exists() and not (tmp_path/'x'/'volumes.csv').exists()

def test_pydicom_is_left_as_it_was(tmp_path, recwarn):
    from pydicom.config import settings as s
    before = s.reading_validation_mode, s.writing_validation_mode
    write_dicom(tmp_path/'ID_000012eaf.dcm', np.zeros((4,4), np.int16))
    assert (s.reading_validation_mode, s.writing_validation_mode) == before and not recwarn.list

def test_montage():
    fig = phantom_montage(phantom_study(1, 64, n_slices=7, subtypes=('subdural',)), n=20, cols=4, outline=True)
    assert sum(len(a.images) for a in fig.axes) == 7

def test_workers_write_the_same_files(tmp_path):
    for w in (1, 2): write_phantom(tmp_path/str(w), studies=2, size=64, seed=9, workers=w)
    files = sorted(p.relative_to(tmp_path/'1') for p in (tmp_path/'1').rglob('*') if p.is_file())
    assert files and all((tmp_path/'1'/p).read_bytes() == (tmp_path/'2'/p).read_bytes() for p in files)

def like(*rows):
    "A table of header values in the form of the real one; each of `rows` changes a good row"
    good = dict(BitsAllocated='16', BitsStored='16', HighBit='15', ImageOrientationPatient="['1.000000', '0.000000', '0.000000', '0.000000', '0.970296', '-0.241922']",
        ImagePositionPatient="['-125.000000', '-141.986969', '134.079391']", Modality='CT', PatientID='ID_ae54', PhotometricInterpretation='MONOCHROME2', PixelRepresentation='1',
        PixelSpacing="['0.488281', '0.488281']", RescaleIntercept='-1024.0', RescaleSlope='1.0', SOPInstanceUID='', SamplesPerPixel='1', SeriesInstanceUID='ID_823',
        StudyID='', StudyInstanceUID='ID_ed2', WindowCenter='30', WindowWidth='80')
    return pd.DataFrame([good | dict(SOPInstanceUID=f'ID_{i:09x}') | r for i,r in enumerate(rows)])

twelve = dict(BitsStored='12', HighBit='11', PixelRepresentation='0')
AWKWARD = [{}, twelve | dict(WindowCenter="['00040', '00040']", WindowWidth="['00080', '00080']"), twelve | dict(WindowCenter='', WindowWidth=''),
    dict(ImagePositionPatient="['-9', '-0.5', '-1.25e2']", RescaleIntercept='0.0'), dict(WindowCenter='35.000000', WindowWidth="['135.0', '80', '1']", PixelSpacing=''),
    twelve | dict(StudyID='7', PatientID='Å', SOPInstanceUID='1.2.840'), dict(PatientID='NA', ImageOrientationPatient='', ImagePositionPatient='', PixelSpacing="['0.48828125', '0.48828125']"),
    *[twelve | dict(SeriesInstanceUID=f'ID_{i}') for i in range(40)]]

def header_table(source, size):
    "The header table that files made from `source` should have, but for where their pixels begin; read from the text on a way of its own"
    floats = lambda t: [float(o) for o in (ast.literal_eval(t) if t.startswith('[') else [t]) if o]
    rows = []
    for r in source.to_dict('records'):
        row = {k:r[c] for k,c in dict(sop='SOPInstanceUID', patient='PatientID', study='StudyInstanceUID', series='SeriesInstanceUID', modality='Modality',
            photometric='PhotometricInterpretation').items()}
        row |= {k:int(r[c]) for k,c in dict(bits_allocated='BitsAllocated', bits_stored='BitsStored', high_bit='HighBit', pixel_representation='PixelRepresentation',
            samples_per_pixel='SamplesPerPixel').items()}
        row |= {k:(floats(r[c]) or [None])[0] for k,c in dict(slope='RescaleSlope', intercept='RescaleIntercept', window_center='WindowCenter', window_width='WindowWidth').items()}
        for c,names in dict(ImagePositionPatient='x y z', ImageOrientationPatient='ix iy iz jx jy jz', PixelSpacing='spacing_y spacing_x').items(): row |= dict(zip(names.split(), floats(r[c])))
        rows.append(row | dict(n_windows=len(floats(r['WindowCenter'])), path=f"dicom/{r['SOPInstanceUID']}.dcm", rows=size, cols=size, pixel_bytes=2*size*size, frames=1))
    return header_frame(rows, '')

def check_table(out, source, size):
    "The scan of `out` equals `source`; its header table"
    seen,want = scan(out),header_table(source, size).sort_values('path', ignore_index=True)
    own = [c for c in HEADER_COLS if c not in ('pixel_offset', 'transfer_syntax', 'kind', 'orientation', 'flags')]
    pd.testing.assert_frame_equal(seen[own], want[own])
    return seen

@pytest.fixture(scope='module')
def awkward(tmp_path_factory):
    root = tmp_path_factory.mktemp('like')
    like(*AWKWARD).to_csv(root/'t.csv.gz', index=False)
    return root, write_headers_like(root/'full', root/'t.csv.gz', size=64), write_headers_like(root/'holes', root/'t.csv.gz', size=64, sparse=True)

@pytest.mark.parametrize('kind', ['full', 'holes'])
def test_files_like_a_table_have_its_headers(kind, awkward):
    root,df,_ = awkward
    seen = check_table(root/kind, like(*AWKWARD), 64)
    assert 1 < (seen.transfer_syntax == '1.2.840.10008.1.2').sum() < len(seen)/2 and not list((root/kind).glob('.*'))
    assert seen.set_index('sop').loc[df.sop].path.tolist() == df.path.tolist()

def test_a_table_s_texts_stand_as_they_are(awkward):
    for sop,texts in {'ID_000000001':[('WindowCenter', b'00040\\00040 '), ('StudyID', None)], 'ID_000000003':[('ImagePositionPatient', b'-9\\-0.5\\-1.25e2 '), ('RescaleIntercept', b'0.0 ')]}.items():
        ds = read_header(awkward[0]/'full'/'dicom'/f'{sop}.dcm')
        assert [(k, ds.get_item(k).value or None) for k,_ in texts] == texts

def test_pixels_of_files_like_a_table(awkward):
    root,df,_ = awkward
    paths = [(root/k/df.path[i]) for i in (0, 1) for k in ('full', 'holes')]
    for full,holes in (paths[:2], paths[2:]):
        hu = read_hu(full)
        assert (hu[0,0], hu[32,32]) == (-1000, 36) and full.stat().st_size == holes.stat().st_size and (read_hu(holes) == -1024).all()
        ds,px = read(full)
        np.testing.assert_array_equal(px+float(ds.RescaleIntercept), hu)

def test_holes_take_no_disk(tmp_path):
    like({}).to_csv(tmp_path/'t.csv', index=False)
    write_headers_like(tmp_path/'x', tmp_path/'t.csv', size=1024, sparse=True)
    stat = next((tmp_path/'x'/'dicom').iterdir()).stat()
    if not hasattr(stat, 'st_blocks'): pytest.skip('the system tells no blocks')
    assert stat.st_size > 2<<20 and stat.st_blocks*512 < 1<<18

@settings(deadline=None, max_examples=60)
@given(coding=st.sampled_from(list(PHANTOM_CODINGS)), implicit=st.booleans(),
    numbers=st.lists(st.decimals(-999, 999, places=4).map(str), min_size=1, max_size=5),
    text=st.text('abcXYZ019_. -', max_size=60).map(str.strip))
def test_data_bytes_are_pydicom_s(coding, implicit, numbers, text, tmp_path_factory):
    hu,tags = np.zeros((2,4), int), dict(WindowCenter=numbers, PatientID=text, SeriesInstanceUID=text.replace(' ', ''))
    raw = write_dicom(tmp_path_factory.mktemp('x')/'ID_1.dcm', hu, coding, implicit, **tags).read_bytes()
    ours = _data_bytes({k:'\\'.join(v) if isinstance(v, list) else v for k,v in dicom_header(hu, coding, .488281, 'ID_1', tags).items()}, implicit, 16)
    assert raw[:-16].endswith(ours) and ours.startswith(b'\x08\x00\x18\x00')

@pytest.mark.parametrize('implicit', [False, True])
def test_meta_bytes_are_pydicom_s(implicit):
    m,out = FileMetaDataset(),DicomBytesIO()
    for k,v in file_meta('ID_000012eaf', implicit).items(): setattr(m, k, v)
    write_file_meta_info(out, m, enforce_standard=not implicit)
    assert _meta_bytes('ID_000012eaf', implicit) == bytes(128) + b'DICM' + out.getvalue()

@pytest.mark.parametrize('change,say', [(lambda df: df.drop(columns=['Modality', 'HighBit']), 't.csv: no column .*Modality'), (lambda df: df[:0], 'has no rows'),
    (lambda df: df.assign(BitsStored='twelve'), 'BitsStored of row 1 is no whole'), (lambda df: df.assign(HighBit=['15', '11.5', '11']), 'HighBit of row 2'),
    (lambda df: df.assign(SamplesPerPixel='65536'), 'SamplesPerPixel of row 1'), (lambda df: df.assign(BitsAllocated=['16', '16', '8']), 'BitsAllocated of row 3 is not 16'),
    (lambda df: df.assign(SOPInstanceUID=['ID_1', '../ID_2', 'ID_3']), 'SOPInstanceUID of row 2 can.t name'), (lambda df: df.assign(SOPInstanceUID=''), 'SOPInstanceUID of row 1 can.t name'),
    (lambda df: df.assign(SOPInstanceUID=['ID_1', 'ID_3', 'ID_1']), 'SOPInstanceUID of row 3 is that'), (lambda df: df.assign(PatientID='x'*1025), 'PatientID of row 1 is longer')])
def test_a_bad_table_writes_nothing(change, say, tmp_path):
    change(like({}, twelve, twelve)).to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(DataError, match=say) as e: write_headers_like(tmp_path/'x', tmp_path/'t.csv', size=64)
    assert 't.csv' in str(e.value) and '\n' not in str(e.value) and not (tmp_path/'x').exists()

@pytest.mark.parametrize('data', [b'', b'a,b\n"1', b'\x1f\x8b\x08 cut', b'\xff\xfe\x00', None])
def test_what_is_no_table_is_refused(data, tmp_path):
    for name in ('t.csv', 't.csv.gz'):
        if data is not None: (tmp_path/name).write_bytes(data)
        with pytest.raises(DataError, match=name): write_headers_like(tmp_path/'x', tmp_path/name)
    assert not (tmp_path/'x').exists()

def test_limit_and_refusals_of_files_like_a_table(tmp_path):
    like(*AWKWARD).to_csv(tmp_path/'t.csv', index=False)
    assert len(write_headers_like(tmp_path/'a', tmp_path/'t.csv', size=64, limit=2)) == 2 == len(list((tmp_path/'a'/'dicom').iterdir()))
    before = digest(tmp_path/'a')
    with pytest.raises(DataError, match='already holds a dicom folder'): write_headers_like(tmp_path/'a', tmp_path/'t.csv', size=64)
    for kw,say in ((dict(limit=0), 'limit is 1'), (dict(size=63), '64 to 1024')):
        with pytest.raises(DataError, match=say): write_headers_like(tmp_path/'b', tmp_path/'t.csv', **kw)
    assert digest(tmp_path/'a') == before and not (tmp_path/'b').exists()

def test_a_stopped_run_leaves_no_files_like_a_table(tmp_path, monkeypatch):
    import rsna_ich.phantom.headers_like as P
    real,calls = P._write_like, []
    def stops(*a):
        calls.append(1)
        if len(calls) > 3: raise OSError('disk full')
        real(*a)
    monkeypatch.setattr(P, '_write_like', stops)
    like(*AWKWARD).to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(OSError, match='disk full'): write_headers_like(tmp_path/'x', tmp_path/'t.csv', size=64)
    assert len(calls) == 4 and not list((tmp_path/'x').iterdir())

def test_real_headers_come_back(real, tmp_path):
    table = real/'stage_1_test_headers.csv.gz'
    write_headers_like(tmp_path/'x', table, limit=300, sparse=True)
    check_table(tmp_path/'x', pd.read_csv(table, dtype=str, keep_default_na=False, nrows=300), 512)

def test_headers_are_those_of_real_files(real):
    other = []
    for p in sorted((real/'dicom').glob('*.dcm')):
        ds,vals = read_header(p),{}
        for tag in ds.keys():
            v = ds.get_item(tag).value or b''
            vals[keyword_for_tag(tag)] = int.from_bytes(v, 'little') if dictionary_VR(tag) == 'US' else v.decode().rstrip(' \0')
        implicit = ds.file_meta.TransferSyntaxUID.is_implicit_VR
        data = _data_bytes(vals, implicit, ds.pixel_bytes)
        meta = read_header(_meta_bytes(p.stem, implicit) + data).file_meta
        if not p.read_bytes()[:ds.pixel_offset].endswith(data) or list(meta.keys()) != list(ds.file_meta.keys()): other.append(p.name)
    assert not other
