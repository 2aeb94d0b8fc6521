"What the headers tell: real counts found again another way, injected faults found exactly, and the laws of the stability index"
import ast, csv, gzip, json, math, statistics
from collections import Counter, defaultdict
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from rsna_ich.core.errors import DataError
from rsna_ich.dicom.header_rows import HEADER_COLS, header_frame
from rsna_ich.dicom.header_files import load_headers, read_header_csv, save_headers
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.eda.headers import (coding_groups, column_table, header_drift, headers_section, MAY_BE_EMPTY, missing_columns, rule_actions, rule_masks,
    series_problems, series_table, shared_patients, stability_index, window_counts, with_geometry)

def numbers(text):
    "The numbers of a cell, by Python's own parser"
    v = [o for o in ast.literal_eval(text)] if text.startswith('[') else [text] if text else []
    return [float(o) for o in v]

@pytest.fixture(scope='module')
def raw(real):
    with gzip.open(real/'stage_1_test_headers.csv.gz', 'rt') as f: return list(csv.DictReader(f))

@pytest.fixture(scope='module')
def table(real): return read_header_csv(real/'stage_1_test_headers.csv.gz')

@pytest.fixture(scope='module')
def clean(heads): return scan(heads/'dicom').sort_values(['series', 'z'], ignore_index=True)

def test_real_values_are_those_of_the_text(raw, table):
    assert list(table.columns) == list(HEADER_COLS) and len(table) == len(raw) == 78545 and 'root' not in table.attrs
    for c,k in dict(sop='SOPInstanceUID', patient='PatientID', series='SeriesInstanceUID', modality='Modality').items(): assert table[c].tolist() == [o[k] for o in raw]
    for cols,k in (('x y z', 'ImagePositionPatient'), ('ix iy iz jx jy jz', 'ImageOrientationPatient'), ('spacing_y spacing_x', 'PixelSpacing')):
        assert table[cols.split()].to_numpy().tolist() == [numbers(o[k]) for o in raw]
    for c,k in dict(window_center='WindowCenter', window_width='WindowWidth', intercept='RescaleIntercept', slope='RescaleSlope').items(): assert table[c].tolist() == [numbers(o[k])[0] for o in raw]
    assert table.n_windows.tolist() == [len(numbers(o['WindowCenter'])) for o in raw]

def test_real_counts(raw, table):
    codings = Counter((int(o['BitsStored']), int(o['PixelRepresentation']), float(o['RescaleIntercept'])) for o in raw)
    g = coding_groups(table)
    assert {tuple(k):n for *k,n in g[['bits_stored', 'pixel_representation', 'intercept', 'images']].itertuples(index=False)} == codings
    assert codings == {(16,1,-1024):75369, (12,0,-1024):3088, (12,1,0):60, (12,0,-1000):28} and not g.broken.any()
    n = headers_section(table).numbers
    assert (n['patients'], n['studies'], n['series']) == tuple(len({o[k] for o in raw}) for k in ('PatientID', 'StudyInstanceUID', 'SeriesInstanceUID')) == (2144, 2214, 2214)
    assert n['missing_columns'] == ['pixel_offset', 'pixel_bytes', 'transfer_syntax', 'rows', 'cols', 'frames']
    json.dumps(n, allow_nan=False)

def test_real_windows(raw, table):
    odd = sum("'000" in o['WindowCenter'] for o in raw)
    several = sum(o['WindowCenter'].count(',') > 0 for o in raw)
    assert (odd, several) == (2157 + 953 + 34, 3176) and rule_masks(table)['more than one window'].sum() == several
    w = window_counts(table)
    assert dict(zip(zip(w.center, w.width, w.windows), w.images)) == Counter((c[0], numbers(o['WindowWidth'])[0], len(c)) for o in raw for c in [numbers(o['WindowCenter'])])

def test_real_tilt(raw, table):
    turned = [numbers(r['ImageOrientationPatient']) for r in raw]
    upright = [o for o in turned if abs(o[0]) > .7] # in the others rows run from front to back
    tilted = sum(abs(math.degrees(math.atan2(-o[5], o[4]))) > .5 for o in upright)
    assert len(turned) - len(upright) == 40 and rule_masks(table)['tilted by over 0.5 degrees'].sum() == tilted == 72144

def by_hand(raw):
    "Per series: slices, gaps, repeats, unequal distances and orientations, one slice after the other"
    series,res = defaultdict(list),{}
    for o in raw:
        (a,b,c,d,e,f),p = numbers(o['ImageOrientationPatient']),numbers(o['ImagePositionPatient'])
        series[o['SeriesInstanceUID']].append(((b*f-c*e, c*d-a*f, a*e-b*d), p, (a,b,c,d,e,f)))
    for k,v in series.items():
        normal = [sum(o[0][i] for o in v)/len(v) for i in range(3)]
        v = [(sum(x*y for x,y in zip(normal, p)), ori) for _,p,ori in v]
        v.sort(key=lambda o: o[0])
        steps = [q[0] - p[0] for p,q in zip(v, v[1:])]
        median = statistics.median([o for o in steps if o >= .01])
        gaps = uneven = 0
        for i,s in enumerate(steps):
            if s < .01: continue
            beside = max([o for o in steps[max(0, i-1):i] + steps[i+1:i+2] if o >= .01], default=math.nan)
            gap = s > 1.5*median and not s <= 1.5*beside
            gaps += gap
            uneven += not gap and abs(s/median - 1) > .1
        res[k] = len(v), gaps, sum(s < .01 for s in steps), uneven, max(max(o) - min(o) for o in zip(*(o[1] for o in v))) > 1e-3
    return res

def test_real_series(raw, table):
    s = series_table(table)
    ours = {r[0]:tuple(r[1:]) for r in s[['series', 'slices', 'gaps', 'repeats', 'unequal', 'orientations']].itertuples(index=False)}
    hand = {k:v for k,v in by_hand(raw).items() if not v[-1]} # in two planes there is no one way along
    assert len(hand) == len(ours) - 3 and {k:(*v[:3], v[4]) for k,v in hand.items()} == {k:(*ours[k][:3], ours[k][4]) for k in hand}
    assert all(abs(ours[k][3] - v[3]) <= 1 for k,v in hand.items()) # a step may be just a tenth longer than the others
    p = series_problems(s).set_index('problem').series
    assert (p['gap between slices'], p['repeated position'], p['more than one orientation in a series']) == (22, 45, 3)
    assert (s.slices.min(), s.slices.max()) == (20, 60)

def test_a_csv_goes_where_a_header_table_goes(raw, table, real, tmp_path):
    pd.testing.assert_frame_equal(load_headers(real/'stage_1_test_headers.csv.gz'), table)
    assert load_headers(real/'stage_1_test_headers.csv.gz', root=tmp_path).attrs['root'] == str(tmp_path)
    save_headers(table[:9], tmp_path/'h.parquet')
    pd.testing.assert_frame_equal(load_headers(tmp_path/'h.parquet'), table[:9].reset_index(drop=True), check_flags=False)

def test_fastais_frame(heads, tmp_path):
    import pydicom
    rows = []
    for p in sorted((heads/'dicom').iterdir())[:40]:
        with pydicom.config.disable_value_validation(): ds,row = [*pydicom.dcmread(p, stop_before_pixels=True)],{}
        for e in ds:
            v = e.value
            if isinstance(v, pydicom.multival.MultiValue):
                row[f'Multi{e.keyword}'] = 1
                for i,o in enumerate(v): row[f'{e.keyword}{i or ""}'] = o
            else: row[e.keyword] = v
        rows.append(row | dict(fname=str(p)))
    pd.DataFrame(rows).to_csv(tmp_path/'f.csv')
    want = scan(heads/'dicom').set_index('sop')
    got = read_header_csv(tmp_path/'f.csv').set_index('sop')
    cols = [c for c in got if got[c].notna().any() and c != 'path']
    assert len(cols) > 25
    pd.testing.assert_frame_equal(got[cols], want.loc[got.index, cols], check_flags=False)

@pytest.mark.parametrize('cells,says', [(dict(BitsStored='twelve'), 'BitsStored of row 1 is no whole number'), (dict(ImagePositionPatient="['1', '2']"), 'ImagePositionPatient of row 1 has not 3 numbers'),
    (dict(RescaleSlope='inf'), 'RescaleSlope of row 1 is no number'), (dict(PixelSpacing='[1, x]'), 'PixelSpacing of row 1 is no number')])
def test_bad_values_are_named(cells, says, tmp_path):
    pd.DataFrame([dict(SOPInstanceUID='ID_1') | cells]).to_csv(tmp_path/'t.csv', index=False)
    with pytest.raises(DataError, match=f't.csv: {says}'): read_header_csv(tmp_path/'t.csv')

def test_what_is_no_header_csv(tmp_path):
    (tmp_path/'t.csv').write_bytes(b'\xff\xfe\0')
    for path in (tmp_path/'t.csv', tmp_path/'none.csv'):
        with pytest.raises(DataError, match=path.name): read_header_csv(path)

def test_nothing_is_odd_in_a_clean_set(clean):
    good = clean.assign(spacing_x=240/clean.cols, spacing_y=240/clean.rows, n_windows=1)
    assert set(rule_actions(good).found) <= {'tilted by over 0.5 degrees'}

def faulty(df, fault):
    "A copy with one fault, and the number of images or series that have it"
    df,first = df.copy(),df.index[df.series == df.series[0]]
    if fault == 'gap between slices': return df.drop(index=first[10]).reset_index(drop=True), 1
    if fault == 'series of one slice': return df.drop(index=first[1:]).reset_index(drop=True), 1
    if fault == 'repeated position': df.loc[first[3], ['x', 'y', 'z']] = df.loc[first[2], ['x', 'y', 'z']]
    if fault == 'more than one size in a series': df.loc[first[5], 'rows'] = 80
    if fault == 'more than one spacing in a series': df.loc[first[5], 'spacing_x'] += .1
    if fault == 'more than one orientation in a series': df.loc[first[5], ['jy', 'jz']] = [.6, .8]
    if fault == 'study with more than one series':
        df.loc[df.series == df.series.iloc[-1], 'study'] = df.study[0]
        return df, 2
    return df, 1

@pytest.mark.parametrize('fault', ['gap between slices', 'series of one slice', 'repeated position', 'more than one size in a series', 'more than one spacing in a series',
    'more than one orientation in a series', 'study with more than one series'])
def test_each_fault_of_a_series_is_found(clean, fault):
    df,n = faulty(clean, fault)
    found = series_problems(series_table(df.sample(frac=1, random_state=0))).set_index('problem').series
    assert found[fault] == n and series_problems(series_table(clean)).series.sum() == 0

def test_missing_slices_are_counted(clean):
    s = series_table(clean.drop(index=[10, 11, 12]).reset_index(drop=True))
    assert (s.gaps.sum(), s.lost.sum()) == (1, 3)

def test_a_change_of_thickness_is_no_gap(clean):
    one = clean[clean.series == clean.series[0]].reset_index(drop=True)
    one[['ix', 'iy', 'iz', 'jx', 'jy', 'jz']] = [1., 0, 0, 0, 1, 0]
    n = len(one)
    one['z'] = np.r_[np.arange(n//2)*2.5, (n//2)*2.5 + 2.5 + np.arange(n - n//2)*5.]
    s = series_table(one)
    assert s.gaps.sum() == 0 and s.unequal.sum() > 0

FAULTS = {'unreadable file':dict(error='cut off'), 'broken pixel coding':dict(bits_stored=12, pixel_representation=0, intercept=1.), 'other modality than CT':dict(modality='MR'), 'no patient id':dict(patient=pd.NA),
    'no image id':dict(sop=pd.NA), 'unusual size':dict(cols=80), 'rescale slope other than 1':dict(slope=2.), 'unusual rescale intercept':dict(intercept=-512.), 'window without width':dict(window_width=0.),
    'other photometric interpretation':dict(photometric='MONOCHROME1'), 'no position':dict(z=np.nan), 'no series id':dict(series=pd.NA), 'flagged on reading':dict(flags='slope'),
    'pixels that are not square':dict(spacing_x=1.9), 'field of view outside 120 to 520 mm':dict(spacing_x=9., spacing_y=9.), 'no axial slice':dict(kind='localizer'),
    'stored turned or mirrored':dict(orientation='LA'), 'plane over 45 degrees off axial':dict(jy=0., jz=1.), 'more than one window':dict(n_windows=2)}

@pytest.mark.parametrize('topic', FAULTS)
def test_each_odd_image_is_found(clean, topic):
    whole = lambda v: pd.array([v]*len(clean), 'Int64')
    df = clean.assign(bits_stored=whole(16), pixel_representation=whole(1), intercept=-1024., n_windows=1, spacing_x=2., spacing_y=2.)
    assert not rule_masks(df).get(topic, np.zeros(1)).any()
    for c,v in FAULTS[topic].items(): df.loc[[3, 7], c] = v
    assert np.flatnonzero(rule_masks(df)[topic]).tolist() == [3, 7]

def test_repeated_ids(clean):
    df = clean.copy()
    df.loc[5, 'sop'] = df.sop[9]
    assert np.flatnonzero(rule_masks(df)['repeated image id']).tolist() == [5, 9]

def test_a_patient_on_both_sides(clean):
    half = clean.patient.isin(clean.patient.unique()[:3])
    train,test = clean[half],clean[~half]
    assert len(shared_patients(train, test)) == 0
    both = pd.concat([test, train[:7]])
    assert shared_patients(train, both).test.tolist() == [7]
    todo = rule_actions(train, both).set_index('found')
    assert todo.images['patient in training and test'] == (train.patient == train.patient.iloc[0]).sum()

def test_rates_of_codings(clean, heads):
    labels = read_labels(heads/'labels.csv')
    g,known = coding_groups(clean, labels[:50]),set(labels.sop[:50][labels['any'][:50] == 1])
    assert g.labelled.sum() == 50
    assert round((g['any']*g.labelled).sum()) == len(known)
    assert ((g.any_low <= g['any']) & (g['any'] <= g.any_high))[g.labelled > 0].all()

def test_a_table_without_most_columns(table):
    few = header_frame(table[['sop', 'path']].head(300).to_dict('records'), '.')
    s = headers_section(few)
    assert [f.topic for f in s.findings] == ['columns not known'] and len(missing_columns(few)) == len(HEADER_COLS) - 2 - len(MAY_BE_EMPTY)
    with pytest.raises(DataError, match='no rows'): headers_section(table[:0])

column = st.lists(st.one_of(st.none(), st.integers(0, 5), st.floats(-100, 100)), min_size=1, max_size=200).map(lambda o: pd.Series(o, dtype=float))
@settings(deadline=None)
@given(column, column)
def test_laws_of_the_index(a, b):
    assert stability_index(a, b) >= 0 and math.isfinite(stability_index(a, b))
    assert stability_index(a, a) == 0 == stability_index(a, a.sample(frac=1, random_state=0))

@settings(deadline=None)
@given(st.lists(st.sampled_from('abc'), min_size=1), st.lists(st.sampled_from('bcd'), min_size=1))
def test_the_index_is_its_formula_and_symmetric(a, b):
    v = sorted({*a, *b})
    p,q = ([(o.count(k) + .5)/(len(o) + len(v)/2) for k in v] for o in (a, b))
    s = pd.Series(a, dtype='string'),pd.Series(b, dtype='string')
    assert stability_index(*s) == pytest.approx(sum((y-x)*math.log(y/x) for x,y in zip(p, q))) == stability_index(*s[::-1])

def test_drift_names_the_column_that_moved(clean):
    moved = clean.assign(intercept=-1000., window_width=clean.window_width)
    t = header_drift(clean.assign(intercept=-1024.), moved)
    assert t.column[0] == 'intercept' and t.reading[0] == 'strong' and (t.psi[1:] == 0).all()
    assert 'frames' in set(t.column) and not {'sop', 'patient', 'path', 'error'} & set(t.column)

def test_column_table_shows_no_ids(clean):
    t = column_table(clean).set_index('column')
    assert t.distinct['series'] == 6 and t.missing['series'] == 0
    shown = ' '.join(t.commonest)
    assert not any(i in shown for c in ('sop', 'patient', 'study', 'series') for i in clean[c])

def test_geometry_does_not_depend_on_the_order_of_rows(clean):
    g,h = with_geometry(clean),with_geometry(clean.sample(frac=1, random_state=1)).sort_index()
    pd.testing.assert_frame_equal(g.drop(columns='series_no'), h.drop(columns='series_no'))
