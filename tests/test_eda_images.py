"Galleries, viewer and steps: the laws of the choice, exact HU in the page, escaping, files that can't be read, and the real slices"
import base64, io, json, re
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from rsna_ich.core.labels import LABELS, SUBTYPES
from rsna_ich.dicom.scanning import scan
from rsna_ich.report.gallery import (GalleryPicture, choose_slices, files_by_coding, gallery_table, html_pictures, pick_by_label,
    pick_series, rainbow_rgb, read_picks, thumbnail)
from rsna_ich.report.viewer import pack_hu, slice_viewer, unpack_hu
from rsna_ich.data.label_files import read_labels
from rsna_ich.eda.images import images_section
from rsna_ich.eda.steps import augment_pictures, steps_section, with_frame
from rsna_ich.phantom.files import PHANTOM_CODINGS, write_phantom

@given(arrays(np.int16, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_packing_loses_nothing(hu): assert (unpack_hu(pack_hu(hu), hu.shape) == hu).all()

def _table(patients, bad=()):
    "A slice table of one series a patient, as many slices as told"
    n = sum(patients)
    who = np.repeat(np.arange(len(patients)), patients)
    at = np.concatenate([np.linspace(0, 1, k) if k > 1 else [np.nan] for k in patients]) if n else np.empty(0)
    error = [('cut off' if i in bad else None) for i in range(n)]
    return pd.DataFrame(dict(path=[f'{i}.dcm' for i in range(n)], patient=who.astype(str), height=at, error=pd.array(error, 'string')))

@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 99), st.sets(st.integers(0, 20)))
def test_a_choice_is_seeded_spread_and_without_repeats(patients, n, seed, bad):
    df = _table(patients, bad)
    got,good = choose_slices(df, n, seed),df[df.error.isna()]
    assert list(got.path) == list(choose_slices(df.copy(), n, seed).path)
    assert got.path.is_unique and got.error.isna().all() and len(got) == min(n, len(good))
    assert got.patient.nunique() == min(n, good.patient.nunique())

def test_another_seed_is_another_choice():
    df = _table([20]*30)
    assert len({tuple(choose_slices(df, 6, s).path) for s in range(10)}) == 10

def test_a_choice_lies_in_the_middle_of_the_head_and_is_spread_there():
    h = choose_slices(_table([30]*40), 12).height
    assert h.between(.3, .9).all() and (np.histogram(h, 4, (.35, .85))[0] >= 2).all()

@pytest.fixture(scope='module')
def studies(tmp_path_factory):
    "Headers and labels of four phantom studies, all labels and codings, one file with a broken header and one with lost pixels after the scan"
    root = tmp_path_factory.mktemp('studies')
    write_phantom(root, studies=4, size=64, seed=6, n_slices=24, codings=list(PHANTOM_CODINGS), prevalence={l:.1 for l in SUBTYPES})
    files = sorted((root/'dicom').iterdir())
    files[0].write_bytes(files[0].read_bytes()[:400])
    headers = scan(root/'dicom')
    one = pick_series(gallery_table(headers, read_labels(root/'labels.csv'))).iloc[3]
    lost = root/'dicom'/one.path
    lost.write_bytes(lost.read_bytes()[:-999])
    return headers, read_labels(root/'labels.csv'), lost.name

def test_labels_stand_alone_where_they_can():
    df = pd.concat([_table([1]*8).assign(**dict.fromkeys(LABELS, 0.))], ignore_index=True)
    df.loc[:3, ['any', 'epidural']] = 1
    df.loc[:1, 'subdural'] = 1
    got = pick_by_label(df, 3)
    assert list(got['epidural'].subdural) == [0, 0, 1] and set(got) == {'epidural', 'subdural', 'normal'}
    assert (got['normal']['any'] == 0).all() and len(got['subdural']) == 2

def test_a_file_that_cant_be_read_is_named_and_ends_nothing(studies):
    headers,labels,lost = studies
    for section in (images_section(headers, labels, 60), steps_section(headers, labels, n=200)):
        assert section.numbers['unreadable'] == [lost] and lost in section.html
        assert json.loads(json.dumps(section.numbers)) == section.numbers
    assert [o.n for o in images_section(headers, labels, 60).findings if o.action == 'leave out'] == [1]

def test_files_known_to_be_bad_are_not_opened(studies):
    headers,labels,_ = studies
    assert images_section(headers, labels, 10**4).numbers['opened'] == headers.error.isna().sum() == len(headers)-1

def test_without_any_good_file_there_is_a_section(studies):
    headers = studies[0].assign(error='cut off')
    headers.attrs = studies[0].attrs
    assert [f(headers).numbers.get('opened', 0) for f in (images_section, steps_section)] == [0, 0]

def test_sections_without_labels_without_positions_and_of_one_file(studies):
    headers,labels,lost = studies
    bare = headers.assign(x=np.nan, series=pd.NA, patient=pd.NA, window_width=np.nan)
    for df in (bare, headers[headers.path != lost][5:6]):
        df.attrs = headers.attrs
        for f in (images_section, steps_section): assert f(df).html.count('<img') >= 4

def test_the_same_call_gives_the_same_page(studies):
    headers,labels,_ = studies
    for f in (images_section, steps_section):
        one,same,other = [f(headers, labels, n=2, seed=s).html for s in (3, 3, 4)]
        assert one == same != other

def test_nothing_from_the_data_becomes_html():
    evil = '"><script>alert(1)</script>'
    page = html_pictures([GalleryPicture(None, evil), GalleryPicture(np.zeros((4, 4)), evil)], evil)
    view = slice_viewer(np.zeros((2, 4, 4)), [evil]*2, [evil]*2, name=evil)
    assert '<script' not in page and view.count('<script') == view.count('</script') == 2
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', view)[1])
    assert data['labels'] == data['titles'] == [evil]*2

def test_the_page_holds_the_very_hu(studies):
    headers,labels,_ = studies
    one = pick_series(gallery_table(headers, labels))
    hus,_ = read_picks(one)
    page = images_section(headers, labels).html
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert [(unpack_hu(t, data['shape']) == hus[p]).all() for t,p in zip(data['hu'], [p for p in one.path if p in hus])] == [True]*len(hus)

def test_a_thumbnail_is_the_picture():
    grey = np.tile(np.linspace(0, 1, 64), (64, 1))
    for pixels in (grey, rainbow_rgb(grey*100)):
        img = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(pixels, 64).split(',')[1])))) / 255
        assert img.shape == pixels.shape and np.abs(img-pixels).mean() < .02
    assert Image.open(io.BytesIO(base64.b64decode(thumbnail(np.zeros((100, 50)), 64).split(',')[1]))).size == (32, 64)

@given(st.tuples(*[st.floats(-20, 30)]*4))
def test_a_frame_fits_any_box(box):
    x0,x1,y0,y1 = *sorted(box[:2]),*sorted(box[2:])
    res = with_frame(np.zeros((12, 10)), (x0, y0, x1, y1))
    assert res.shape == (12, 10, 3) and set(np.unique(res)) <= {0, .6, .9}

def test_augmentation_leaves_the_random_state_alone():
    import torch
    state = torch.random.get_rng_state()
    augment_pictures(np.full((32, 32), 30., np.float32), 3)
    assert (torch.random.get_rng_state() == state).all()

@pytest.mark.real
def test_sections_of_the_real_slices(real):
    headers,labels = scan(real/'dicom'),read_labels(real/'labels.csv')
    images,steps = images_section(headers, labels),steps_section(headers, labels)
    assert images.numbers['files'] == 333 and images.numbers['unreadable'] == []
    assert images.numbers['shown'] == dict(epidural=1, intraparenchymal=6, intraventricular=6, subarachnoid=6, subdural=6, normal=6)
    assert (images.numbers['series_slices'], images.numbers['series_positive']) == (36, 11)
    assert len(images.html) + len(steps.html) < 7e6 and steps.numbers['slices'] == 24
    assert len(files_by_coding(headers)) == 4
