"A hospital's folder: the same anatomy gets the same answer whatever else lies there and however it is stored"
import shutil
import numpy as np, pandas as pd, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from rsna_ich.core.errors import DataError, DicomError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.orientation import to_file_grid, turn_back, upright
from rsna_ich.dicom.passes import find_passes, slice_position
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.series import in_slice_order, neighbour_rows
from rsna_ich.dicom.studies import study_table
from rsna_ich.data.submission import load_predictions, save_predictions
from rsna_ich.data.tables import slice_table
from rsna_ich.answer.inference import changed_since, predict
from rsna_ich.eda.headers import headers_section
from rsna_ich.learn.ensembles import load_detectors
from rsna_ich.phantom.files import write_dicom
from rsna_ich.phantom.studies import phantom_study
from tests.odd_files import enhanced

IDS = dict(PatientID='P1', StudyInstanceUID='1.1', SeriesInstanceUID='1.2')
SIZE,STEP = 64, 7.5
SPACING = 240/SIZE

@pytest.fixture(scope='module')
def head(): return phantom_study(seed=11, size=SIZE, n_slices=24, subtypes=('intraparenchymal',)).hu[4:22].astype(np.int16)

@pytest.fixture(scope='module')
def model(): return load_detectors('starter')

def write(folder, hu, i, name=None, code='LP', tilt=0., **tags):
    "One slice of the head, stored as `code` says"
    r = np.deg2rad(tilt)
    axes = dict(L=(1, 0, 0), R=(-1, 0, 0), P=(0, np.cos(r), -np.sin(r)), A=(0, -np.cos(r), np.sin(r)))
    tags = IDS | dict(SOPInstanceUID=f'1.9.{i}', ImagePositionPatient=[-100, -100, STEP*i],
        ImageOrientationPatient=[*axes[code[0]], *axes[code[1]]], SliceThickness=STEP) | tags
    return write_dicom(folder/(name or f'{i:03}.dcm'), np.ascontiguousarray(turn_back(hu, code)), spacing=SPACING, **tags)

def clean(folder, head, **tags):
    folder.mkdir(parents=True)
    for i,hu in enumerate(head): write(folder, hu, i, **tags)
    return folder

@pytest.fixture(scope='module')
def answer(head, model, tmp_path_factory):
    "The clean series' answer, by SOPInstanceUID"
    df = predict(clean(tmp_path_factory.mktemp('clean')/'s', head), model)
    assert df.error.isna().all() and df.chosen.all() and df['any'].max() > .5
    return df.set_index('sop')

def _same(df, answer, sops=None):
    got = df.set_index('sop').loc[answer.index if sops is None else sops]
    np.testing.assert_allclose(got[[*LABELS, 'series_any']].astype(float), answer[[*LABELS, 'series_any']], atol=1e-5)
    assert got.chosen.all()

# what an image is

OTHERS = dict( # chkstyle: ignore-node
    localizer=dict(ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER'], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    axial_localizer=dict(ImageType=['ORIGINAL', 'PRIMARY', 'LOCALIZER', 'CT_SOM5 TOP']),
    screenshot=dict(ImageType=['DERIVED', 'SECONDARY', 'SCREEN SAVE']),
    secondary_capture=dict(SOPClassUID='1.2.840.10008.5.1.4.1.1.7', ConversionType='WSD'),
    dose_page=dict(ImageType=['DERIVED', 'SECONDARY', 'OTHER', 'CT_SOM5 PROT']),
    sagittal=dict(ImageType=['DERIVED', 'PRIMARY', 'MPR'], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    coronal=dict(ImageType=['DERIVED', 'PRIMARY', 'REFORMATTED'], ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
    mip=dict(ImageType=['DERIVED', 'SECONDARY', 'AXIAL', 'MIP']),
    perfusion=dict(ImageType=['DERIVED', 'PRIMARY', 'PERFUSION', 'CBF']))
KIND = dict(axial_localizer='localizer', screenshot='secondary', secondary_capture='secondary', dose_page='dose', mip='rendering', perfusion='map')

@pytest.mark.parametrize('what', OTHERS)
def test_what_is_no_axial_slice_is_known_and_left_out(head, model, answer, tmp_path, what):
    folder = clean(tmp_path/'s', head)
    write(folder, head[9], 9.5, 'other.dcm', **OTHERS[what])
    kind = KIND.get(what, what)
    df = scan(folder)
    row = df[df.path == 'other.dcm'].iloc[0]
    assert row.kind == kind and kind in row['flags'].split()
    got = predict(folder, model)
    _same(got, answer)
    other = got[got.path == 'other.dcm'].iloc[0]
    assert pd.isna(other['any']) and 'not an axial slice' in other.error and kind in other['flags'] and not other.chosen
    scored = predict(folder, model, all_images=True)
    assert scored.error.isna().all() and scored[list(LABELS)].notna().all().all()
    _same(scored, answer)
    ordered = in_slice_order(df)
    assert ordered.path[ordered['pass'].notna()].tolist() == [f'{i:03}.dcm' for i in range(len(head))]
    near = neighbour_rows(df, 1)
    me = df.index[df.path == 'other.dcm'][0]
    assert (near[me] == me).all() and not (np.delete(near, me, 0) == me).any()
    assert len(slice_table(df)) == len(head)
    with pytest.raises(DicomError, match='not an axial slice'): model[0].predict(folder/'other.dcm')
    assert 'What the studies hold' in headers_section(df).html

# how it lies

@pytest.mark.parametrize('code', ['LA', 'RA', 'RP', 'PL', 'AR'])
def test_turned_and_mirrored_series_get_the_same_answer(head, model, answer, tmp_path, code):
    df = predict(clean(tmp_path/'s', head, code=code), model)
    _same(df, answer)
    assert (df['flags'] == 'turned').all()
    assert in_slice_order(scan(tmp_path/'s')).position.tolist() == [STEP*i for i in range(len(head))]

def test_a_heat_map_can_be_laid_on_the_files_own_grid(head):
    for code in ('LP', 'LA', 'RA', 'PL'):
        stored = turn_back(head[9], code)
        assert np.array_equal(to_file_grid(upright(stored, code), code, stored.shape), stored)

def test_show_and_pictures_are_upright(head, tmp_path):
    import matplotlib.pyplot as plt
    from importlib import import_module
    import_module('rsna_ich.dicom.display')
    from rsna_ich.report.gallery import gallery_table, read_picks
    write(tmp_path, head[9], 0, 'u.dcm')
    write(tmp_path, head[9], 1, 't.dcm', 'RA')
    drawn = [(tmp_path/o).show().get_images()[0].get_array() for o in ('u.dcm', 't.dcm')]
    assert np.array_equal(*drawn)
    hus,_ = read_picks(gallery_table(scan(tmp_path)))
    assert np.array_equal(hus['u.dcm'], hus['t.dcm'])
    plt.close('all')

def test_one_normal_a_series_towards_the_head(head, tmp_path):
    "Orientation -1,0,0,0,1,0 gave 92 down to 37 mm"
    folder = clean(tmp_path/'s', head, code='RP')
    df = scan(folder)
    assert slice_position(df).tolist() == sorted(slice_position(df)) == [STEP*i for i in range(len(head))]

def test_both_orientations_in_one_series_are_in_one_order(head, model, answer, tmp_path):
    folder = tmp_path/'s'
    folder.mkdir()
    for i,hu in enumerate(head): write(folder, hu, i, code='LP' if i%2 else 'LA')
    _same(predict(folder, model), answer)

def test_tilted_slices_are_in_order(head, tmp_path):
    folder = clean(tmp_path/'s', head, tilt=20.)
    df = in_slice_order(scan(folder))
    assert df.path.tolist() == sorted(df.path) and df.position.diff().dropna().round(4).nunique() == 1

# where it is

def test_without_positions_by_instance_or_location(head, tmp_path):
    for which in ('InstanceNumber', 'SliceLocation'):
        folder = tmp_path/which
        folder.mkdir()
        for i,hu in enumerate(head[:12]): write(folder, hu, i, f'{i+1}.dcm', ImagePositionPatient=None, **{which:i+1})
        df = in_slice_order(scan(folder))
        assert df.path.tolist() == [f'{i+1}.dcm' for i in range(12)] and (df['flags'] == 'position').all()
        assert neighbour_rows(df, 1)[5].tolist() == [4, 5, 6]

@pytest.mark.parametrize('which', ['InstanceNumber', 'SliceLocation'])
def test_two_kernels_without_positions_are_two_passes(head, tmp_path, which):
    for k,kernel in enumerate(('H30s', 'H60s')):
        for i in range(8): write(tmp_path, head[i], i, f'{kernel}_{i}.dcm', ImagePositionPatient=None, ConvolutionKernel=kernel, **{which:i+1 + 8*k*(which[0] == 'I')})
    df = scan(tmp_path)
    assert pd.crosstab(df.kernel, find_passes(df).in_series).to_numpy().tolist() == [[8, 0], [0, 8]]

def test_an_unreadable_position_is_flagged_and_told_by_the_others(head, tmp_path):
    folder = tmp_path/'s'
    folder.mkdir()
    for i,hu in enumerate(head): write(folder, hu, i, InstanceNumber=100-i, **(dict(ImagePositionPatient=['1', '2']) if i == 5 else {}))
    df = in_slice_order(scan(folder))
    assert df.path.tolist() == [f'{i:03}.dcm' for i in range(len(head))] and df['flags'].fillna('').tolist() == ['position' if i == 5 else '' for i in range(len(head))]
    assert df.position[5] == pytest.approx(5*STEP)

def test_a_slice_with_nothing_that_tells_stands_alone(head, model, tmp_path):
    folder = clean(tmp_path/'s', head[:6])
    write(folder, head[9], 9, 'lost.dcm', ImagePositionPatient=None)
    df = scan(folder)
    assert find_passes(df).number[df.path == 'lost.dcm'] == -1 and not predict(folder, model).error.notna().any()

def test_neighbours_do_not_reach_over_a_gap(head, tmp_path):
    folder = tmp_path/'s'
    folder.mkdir()
    for i in (0, 1, 2, 7, 8): write(folder, head[i], i)
    df = scan(folder)
    assert neighbour_rows(df, 1).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4]]
    assert neighbour_rows(df, 1, 100)[2].tolist() == [1, 2, 3]

def test_patients_with_the_same_uids_stay_apart(head, tmp_path):
    for p in ('P1', 'P2'):
        for i in range(4): write(tmp_path, head[i], i, f'{p}_{i}.dcm', PatientID=p)
    df = scan(tmp_path)
    near = neighbour_rows(df, 3)
    assert all(df.patient[near[i]].nunique() == 1 for i in range(len(df)))
    assert study_table(df).chosen.sum() == 2

# which pass

def second(folder, head, shift=0., **tags):
    for i,hu in enumerate(head):
        write(folder, hu, i, f'b{i:03}.dcm', **dict(ImagePositionPatient=[-100, -100, STEP*i+shift], SOPInstanceUID=f'1.8.{i}') | tags)

SECONDS = dict(kernel=dict(ConvolutionKernel='H60s'), type=dict(ImageType=['DERIVED', 'PRIMARY', 'AXIAL']), acquisition=dict(AcquisitionNumber=2),
    contrast=dict(ContrastBolusAgent='given'), time=dict(AcquisitionTime='110000', InstanceNumber=7), nothing={})
FIRST = dict(ConvolutionKernel='H30s', AcquisitionNumber=1, AcquisitionTime='100000', InstanceNumber=1, ImageType=['ORIGINAL', 'PRIMARY', 'AXIAL'])

@pytest.mark.parametrize('by', SECONDS)
def test_two_passes_of_one_series_are_told_apart(head, model, answer, tmp_path, by):
    folder = clean(tmp_path/'s', head, **FIRST)
    second(folder, head[::-1], **FIRST | SECONDS[by])
    df = scan(folder)
    passes = find_passes(df)
    first = df.path.str.startswith('0').to_numpy()
    if by != 'nothing': assert len(set(passes.number[first])) == len(set(passes.number[~first])) == 1
    assert len(set(passes.number)) == 2 and passes.in_series.max() == 1
    for n in set(passes.number): assert len(set(passes.position[passes.number == n])) == len(head)
    got = predict(folder, model)
    if by not in ('nothing', 'type'): _same(got, answer)
    assert got.error.isna().all() and got.chosen.sum() == len(head) and got.groupby('pass').series_any.nunique().tolist() == [1, 1]
    assert 'not about' in got.attrs['choice']

def test_a_thin_and_a_thick_reconstruction_at_other_positions(head, model, answer, tmp_path):
    folder = clean(tmp_path/'s', head)
    for i in range(2*len(head)): write(folder, head[i//2], i, f't{i:03}.dcm', SOPInstanceUID=f'1.7.{i}', ImagePositionPatient=[-100, -100, STEP/2*i+1], SliceThickness=STEP/2)
    df = scan(folder)
    thick = df.path.str.startswith('0').to_numpy()
    numbers = find_passes(df).number
    assert len(set(numbers[thick])) == 1 and not set(numbers[thick]) & set(numbers[~thick])
    got = predict(folder, model).set_index('sop')
    np.testing.assert_allclose(got.loc[answer.index, 'any'].astype(float), answer['any'], atol=1e-5)

def test_thin_slices_below_and_thick_ones_above_are_one_pass(head, tmp_path):
    for i in range(6): write(tmp_path, head[i], i, SliceThickness=2.5, ImagePositionPatient=[0, 0, 2.5*i], AcquisitionNumber=1)
    for i in range(6, 12): write(tmp_path, head[i], i, SliceThickness=5., ImagePositionPatient=[0, 0, 15+5.*(i-5)], AcquisitionNumber=2)
    assert len(set(find_passes(scan(tmp_path)).number)) == 1

def test_an_acquisition_a_slice_is_one_pass_and_two_scans_are_two(head, tmp_path):
    for i in range(8): write(tmp_path, head[i], i, AcquisitionNumber=i+1)
    assert len(set(find_passes(scan(tmp_path)).number)) == 1
    second(tmp_path, head[:8])
    for i in range(8): write(tmp_path, head[i], i, f'b{i:03}.dcm', SOPInstanceUID=f'1.8.{i}', AcquisitionNumber=i+9)
    df = scan(tmp_path)
    assert pd.crosstab(df.path.str[0], find_passes(df).in_series).to_numpy().tolist() == [[8, 0], [0, 8]]

def _study(folder, head, series, n=None, **tags):
    for i,hu in enumerate(head[:n]): write(folder, hu, i, f'{series}_{i}.dcm', SeriesInstanceUID=series, SOPInstanceUID=f'{series}.{i}', **tags)

@pytest.mark.parametrize('worse,reason', [(dict(ConvolutionKernel='BONEPLUS'), 'bone kernel'), (dict(n=8), 'covers less of the head'), (dict(ContrastBolusAgent='ioversol', ConvolutionKernel='STANDARD'), 'after contrast'),
    (dict(SliceThickness=.6, ConvolutionKernel='STANDARD'), 'slices of unusual thickness')])
def test_the_pass_to_answer_about(head, tmp_path, worse, reason):
    _study(tmp_path, head, '5.1', **worse)
    _study(tmp_path, head, '5.2', ConvolutionKernel='STANDARD', SliceThickness=5.)
    t = study_table(scan(tmp_path))
    assert t.series[t.chosen].tolist() == ['5.2'] and t.reason[~t.chosen].tolist() == [reason]

def test_series_overrides_the_choice(head, model, tmp_path):
    _study(tmp_path, head, '5.1', ConvolutionKernel='BONE')
    _study(tmp_path, head, '5.2', ConvolutionKernel='STANDARD')
    got = predict(tmp_path, model, series='5.1')
    assert set(got.series[got.chosen]) == {'5.1'} and (got.error[got.series == '5.2'] == got.path[got.series == '5.2'] + ': another series was asked for').all()
    with pytest.raises(DataError, match="no axial slices of series '7'; there are 5.1, 5.2"): predict(tmp_path, model, series='7')

# all at once

def test_an_enhanced_file_gets_the_answer_of_its_slices(head, model, answer, tmp_path):
    n = len(head)
    order = np.random.default_rng(0).permutation(n)
    data = enhanced(head[order].astype(int), [STEP*i for i in order], [-1024 + 10*(i%3) for i in range(n)], spacing=SPACING)
    (tmp_path/'e.dcm').write_bytes(data)
    got = predict(tmp_path/'e.dcm', model)
    want = answer.reindex([f'1.9.{i}' for i in order])
    np.testing.assert_allclose(got[[*LABELS, 'series_any']].astype(float), want[[*LABELS, 'series_any']], atol=1e-5)
    assert got.chosen.all() and got.frame.tolist() == list(range(n))
    assert len(model[0].predict(tmp_path/'e.dcm')) == n
    save_predictions(got, tmp_path/'p.csv')
    before = load_predictions(tmp_path/'p.csv')
    assert len(changed_since(before, tmp_path/'e.dcm')) == 0
    data = bytearray(data)
    data[-SIZE*SIZE*2 - 40] ^= 1 # in the last frame but one
    (tmp_path/'e.dcm').write_bytes(data)
    assert changed_since(before, tmp_path/'e.dcm').path.tolist() == [f'e.dcm#{n-2}']

@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**16), st.sampled_from(['LP', 'LA', 'RA', 'RP', 'AL']), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_the_same_anatomy_gets_the_same_answer(head, model, answer, tmp_path_factory, seed, code, localizers, kernel, repeats, instances):
    "Shuffled, renamed, reversed, mirrored, with localizers, a second kernel and repeats mixed in"
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp('mixed')
    names = [f'{o:08x}' for o in rng.choice(2**32, 200, replace=False)]
    names.sort(key=lambda o: hash((o, seed)))
    take = iter(names)
    more = dict(ConvolutionKernel='H30s', AcquisitionNumber=1)
    def number(): return dict(InstanceNumber=int(rng.integers(999))) if instances else {}
    for i in rng.permutation(len(head)): write(folder, head[i], int(i), next(take), code, **more | number())
    if kernel:
        for i in rng.permutation(len(head)): write(folder, head[::-1][i], int(i), next(take), code, ConvolutionKernel='H60s', AcquisitionNumber=1, SOPInstanceUID=f'1.6.{i}')
    if repeats:
        for i in rng.choice(len(head), 4, replace=False): write(folder, head[i], int(i), next(take), code, **more | dict(AcquisitionNumber=2, SOPInstanceUID=f'1.5.{i}'))
    if localizers:
        for k,(what,tags) in enumerate(OTHERS.items()): write(folder, head[k], k+.5, next(take), 'LP', **dict(SOPInstanceUID=f'1.4.{k}') | tags)
    _same(predict(folder, model, bs=int(rng.integers(3, 40))), answer)
    shutil.rmtree(folder)

# discs, archives, stores, old tables

def _directory(folder, listed):
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    ds = Dataset()
    ds.DirectoryRecordSequence = []
    for parts in listed:
        record = Dataset()
        record.DirectoryRecordType,record.ReferencedFileID = 'IMAGE', parts
        ds.DirectoryRecordSequence.append(record)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID,ds.file_meta.MediaStorageSOPClassUID = '1.2.840.10008.1.2.1', '1.2.840.10008.1.3.10'
    ds.save_as(folder/'DICOMDIR')

def test_a_dicomdir_is_followed(head, model, tmp_path):
    disc = tmp_path/'disc'
    (disc/'images').mkdir(parents=True)
    for i in range(6): write(disc/'images', head[i], i, f'im{i}')
    write(disc/'images', head[6], 6, 'unlisted')
    _directory(disc, [['IMAGES', f'IM{i}'] for i in (0, 2, 4, 9)])
    df = scan(disc/'DICOMDIR')
    assert df.path.tolist() == ['images/im0', 'images/im2', 'images/im4', 'IMAGES/IM9'] and df.error.isna().tolist() == [True]*3 + [False]
    assert 'no such file' in df.error[3]
    assert predict(disc/'DICOMDIR', model)['any'].notna().tolist() == [True]*3 + [False]
    whole = scan(disc).set_index('path')
    assert 'a DICOMDIR, which lists the files beside it' in whole.error['DICOMDIR'] and whole.error.notna().sum() == 1
    shutil.make_archive(tmp_path/'disc', 'zip', tmp_path, 'disc')
    packed = scan(tmp_path/'disc.zip'/'disc'/'DICOMDIR')
    assert packed.path.tolist()[:3] == ['disc/images/im0', 'disc/images/im2', 'disc/images/im4'] and packed.error.notna().tolist() == [False]*3 + [True]

def test_a_store_of_an_enhanced_file_and_localizers(head, tmp_path):
    from rsna_ich.data.store import prepare
    n = len(head)
    (tmp_path/'s').mkdir()
    (tmp_path/'s'/'e.dcm').write_bytes(enhanced(head.astype(int), [STEP*i for i in range(n)], [-1024]*n, spacing=SPACING))
    clean(tmp_path/'s'/'single', head)
    write(tmp_path/'s', head[3], 99, 'scout.dcm', **OTHERS['localizer'])
    store = prepare(scan(tmp_path/'s'), tmp_path/'store', size=32, crop=False)
    index = store.index
    assert len(store) == 2*n and index.row.isna().tolist() == (index.kind == 'localizer').tolist() and index.error.isna().all()
    frames,singles = (store.pixels[index.row[k].to_numpy(int)] for k in (index.frame.notna(), index.path.str.startswith('single/')))
    assert np.array_equal(frames, singles)

def test_old_tables_are_to_be_made_again(head, tmp_path):
    from rsna_ich.dicom.header_files import load_headers, save_headers
    df = scan(clean(tmp_path/'s', head[:3]))
    save_headers(df.drop(columns=['kind', 'orientation', 'frame']), tmp_path/'old.parquet')
    with pytest.raises(DataError, match='made by an earlier version .* lacks frame, kind, orientation; scan the folder again'): load_headers(tmp_path/'old.parquet')

def test_neighbours_of_labelled_slices_are_those_that_prediction_sees(head, model, tmp_path):
    "Every third slice has a label; training and prediction see the same neighbours"
    from rsna_ich.data.loaders import ICHDataLoaders
    for p in ('P1', 'P2'): clean(tmp_path/'s'/p, head, PatientID=p)
    headers = scan(tmp_path/'s')
    headers['sop'] = headers.patient + headers.sop
    labels = pd.DataFrame(dict(sop=headers.sop, **{l:0. for l in LABELS}))
    few = slice_table(headers, labels[::3])
    with pytest.raises(DataError, match='pass the header table as headers='): ICHDataLoaders.from_table(few, size=32, chain=dict(neighbours=1), n_folds=2, bs=2)
    dls = ICHDataLoaders.from_table(few, size=32, chain=dict(neighbours=1), n_folds=2, bs=2, headers=headers)
    source = dls.valid.dataset.source
    places = slice_position(headers)
    for i,items in enumerate(dls.valid.dataset.items.itertuples()):
        around = places[source.rows[i]]
        assert around[1] == items.position and np.diff(around).max() <= STEP

def test_the_command_says_what_it_answered(head, tmp_path):
    from tests.test_cli import run
    folder = clean(tmp_path/'s', head[:8])
    second(folder, head[:8], ConvolutionKernel='H60s')
    write(folder, head[3], 99, 'scout.dcm', **OTHERS['localizer'])
    _,said = run('predict', folder, '--out', tmp_path/'p.csv')
    assert "the study's answer is about series 1.2 (8 slices" in said and 'kernel H60s' in said and 'left out: 1 localizer' in said
    assert 'of the kind localizer' in run('scan', folder, '--out', tmp_path/'h.parquet')[1]
    run('predict', folder, '--out', tmp_path/'p.csv', '--all-images')
    assert pd.read_csv(tmp_path/'p.csv')['any'].notna().all()
