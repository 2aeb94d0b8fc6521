"Labels and submissions: round trips, contradictions, and the real 4,045,572 lines"
import subprocess, sys, warnings
import numpy as np, pandas as pd, pyarrow as pa, pytest
from hypothesis import given, settings, strategies as st
from rsna_ich.data import label_files
from rsna_ich.core.errors import LabelError
from rsna_ich.core.labels import LABELS, SUBTYPES
from rsna_ich.data.label_files import read_labels, to_long, write_labels
from rsna_ich.data.submission import load_predictions, save_predictions, write_submission

def with_any(df): return df.assign(any=df[list(SUBTYPES)].max(axis=1))[['sop', *LABELS]]

tables = st.dictionaries(st.text('0123456789abcdef', min_size=1, max_size=9), st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=12).map(
    lambda d: with_any(pd.DataFrame([dict(sop=f'ID_{k}', **dict(zip(SUBTYPES, v))) for k,v in d.items()])))

@settings(max_examples=40, deadline=None)
@given(df=tables, seed=st.integers(0, 9), twice=st.booleans())
def test_round_trip_in_any_order_and_with_repeats(tmp_path_factory, df, seed, twice):
    csv = tmp_path_factory.mktemp('l')/'l.csv'
    write_labels(df, csv)
    long = pd.read_csv(csv)
    pd.concat([long, long[:3]] if twice else [long]).sample(frac=1, random_state=seed).to_csv(csv, index=False)
    back = read_labels(csv)
    assert back.attrs['repeats'] == (3 if twice else 0)
    back = back.set_index('sop').loc[df.sop]
    assert np.array_equal(back[list(LABELS)].to_numpy(), df[list(LABELS)].to_numpy())

@settings(max_examples=25, deadline=None)
@given(df=tables, seed=st.integers(0, 9))
def test_wide_and_long_agree(tmp_path_factory, df, seed):
    root = tmp_path_factory.mktemp('w')
    write_labels(df, root/'long.csv')
    df.rename(columns=dict(sop='ID')).sample(frac=1, axis=1, random_state=seed).to_csv(root/'wide.csv', index=False)
    pd.testing.assert_frame_equal(read_labels(root/'long.csv').sort_values('sop', ignore_index=True), read_labels(root/'wide.csv').sort_values('sop', ignore_index=True))

@st.composite
def kaggles(draw):
    "Lines with six together for each image, in one order, some images twice: (id, label) and what the label says"
    sops = draw(st.lists(st.text('0aé_', max_size=6) | st.sampled_from(['any', 'ID_1', 'ID_1_any']), min_size=1, max_size=8))
    order,vals = draw(st.permutations(LABELS)),st.sampled_from(draw(st.sampled_from(['01', ['0', '1', ''], [''], ['0', '0.0', '1'], ['0', '1', 'true'], ['0', '2', '300']])))
    told = {(s, l):draw(vals) for s in dict.fromkeys(sops) for l in order}
    for s in sops:
        if '1' in [told[s, l] for l in SUBTYPES] and draw(st.integers(0, 9)): told[s, 'any'] = '1' # most files agree with themselves
    return [((s, l), told[s, l]) for s in sops for l in order]

@st.composite
def edited(draw):
    "Such lines with at most one thing done to them"
    lines = draw(kaggles())
    at,v = draw(st.integers(0, len(lines)-1)),draw(st.sampled_from('01'))
    before,(key,_),after = lines[:at],lines[at],lines[at+1:]
    return draw(st.sampled_from([lines, [], lines[::-1], sorted(lines), lines[at:], before + after, lines + lines[at:at+1],
        before + [(key, '1')] + after, before + [(('b', 'any'), v)] + after, before + [(('b', 'extradural'), v)] + after,
        [((s, l.replace('epi', 'extra')), v) for (s,l),v in lines]]))

def _answer(csv):
    "The table, its dtypes and repeats, or the error"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        try: df = read_labels(csv)
        except LabelError as e: return str(e)
    return df.astype(object).fillna('unknown').values.tolist(), df.dtypes.tolist(), df.attrs, [str(o.message) for o in told]

@settings(max_examples=200, deadline=None)
@given(lines=edited())
def test_six_lines_together_read_as_any_others(tmp_path_factory, lines):
    csv = tmp_path_factory.mktemp('k')/'l.csv'
    csv.write_text('\n'.join(['ID,Label', *(f'{s}_{l},{v}' for (s,l),v in lines)]), encoding='utf8')
    short = _answer(csv)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(label_files, '_sixes', lambda ids: None)
        assert _answer(csv) == short

@settings(max_examples=200, deadline=None)
@given(lines=edited(), cut=st.integers(0, 48), block=st.sampled_from([6, 12, 600]))
def test_six_lines_together_are_told_from_others(lines, cut, block):
    ids = [f'{s}_{l}' for (s,l),_ in lines]
    six = label_files._sixes(pa.chunked_array([ids[:cut], ids[cut:]], pa.string()), block)
    order = [l for (_,l),_ in lines[:6]]
    sops = [s for (s,_),_ in lines[::6]]
    together = set(order) == set(LABELS) and ids == [f'{s}_{l}' for s in sops for l in order]
    assert (six and ([s.decode() for s in six[0].to_pylist()], six[1])) == ((sops, order) if together else None)

@pytest.mark.parametrize('text,says', [
    ('ID,Label\nID_1_any,0\nID_1_any,1', 'with different values, for ID_1'), ('ID,Label\nID_1_extradural,1', 'ID_1_extradural'), ('ID,Label\nID_1_any,2', 'neither 0, 1 nor blank'),
    ('ID,Label\nID_1_any,yes', 'neither 0, 1 nor blank'), ('name,any\na,1', "no column 'ID'"), ('ID,anything\na,1', 'unknown label columns anything'),
    ('ID\na', 'unknown label columns'), ('ID,Label\n,1', 'have no ID'), ('ID,any\na,0\na,1', 'with different values, for a'), ('', 'not a CSV'), ('ID,any\n"a', '')])
def test_bad_label_files(tmp_path, text, says):
    (tmp_path/'l.csv').write_text(text)
    with pytest.raises(LabelError) as e: read_labels(tmp_path/'l.csv')
    assert 'l.csv' in str(e.value) and says in str(e.value)

def test_no_label_file(tmp_path):
    with pytest.raises(LabelError, match='no such label file'): read_labels(tmp_path/'none.csv')

def test_a_label_that_is_missing_for_some_is_unknown(tmp_path):
    (tmp_path/'l.csv').write_text('ID,Label\nID_1_any,1\nID_2_any,0\nID_2_subdural,0')
    df = read_labels(tmp_path/'l.csv').set_index('sop')
    assert np.isnan(df.subdural['ID_1']) and df.subdural['ID_2'] == 0 and df['any'].tolist() == [1, 0] and df.epidural.isna().all()

# any beside the subtypes

VALUES = st.sampled_from([0, 1, None])
parts = st.lists(st.tuples(*[VALUES]*6), min_size=1, max_size=8).map(lambda rows: pd.DataFrame(rows, columns=list(LABELS)).assign(
    sop=[f'ID_{i}' for i in range(len(rows))])[['sop', *LABELS]])

def as_wide(df, csv): df.rename(columns=dict(sop='ID')).astype({l:'Int8' for l in df.columns[1:]}).to_csv(csv, index=False)

def as_long(df, csv):
    long = df.melt('sop', var_name='label')
    pd.DataFrame(dict(ID=long.sop + '_' + long.label, Label=long.value.astype('Int8'))).to_csv(csv, index=False)

def expected_any(row):
    "What five subtypes say of `any`"
    told = [row[l] for l in SUBTYPES]
    return 1 if 1 in told else 0 if told == [0]*5 else None

@pytest.mark.parametrize('write', [as_wide, as_long])
@settings(max_examples=80, deadline=None)
@given(df=parts)
def test_any_and_the_subtypes(tmp_path_factory, write, df):
    csv = tmp_path_factory.mktemp('a')/'l.csv'
    write(df.astype(object).where(df.notna(), None), csv)
    rows = df.astype(object).where(df.notna(), None).to_dict('records')
    against = [r['sop'] for r in rows if r['any'] == 0 and expected_any(r) == 1]
    alone = [r['sop'] for r in rows if r['any'] == 1 and expected_any(r) == 0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        if against:
            with pytest.raises(LabelError) as e: read_labels(csv)
            assert f'l.csv: any is 0 although a subtype is 1 for {len(against)} images ({against[0]}' in str(e.value) and not told
            return
        got = read_labels(csv)
    assert [f'for {len(alone)} images ({alone[0]}' in str(o.message) for o in told] == [True]*bool(alone)
    pd.testing.assert_frame_equal(got, df.astype({l:np.float32 for l in LABELS}), check_dtype=False, check_column_type=False)

@pytest.mark.parametrize('write', [as_wide, as_long])
@settings(max_examples=80, deadline=None)
@given(df=parts, known=st.sets(st.sampled_from(SUBTYPES), min_size=1))
def test_any_that_is_not_given_is_taken_from_the_subtypes(tmp_path_factory, write, df, known):
    csv = tmp_path_factory.mktemp('a')/'l.csv'
    df = df.astype(object).where(df.notna(), None)
    write(df[['sop', *sorted(known)]], csv)
    rows = df.assign(**{l:None for l in set(SUBTYPES) - known}).to_dict('records')
    got = read_labels(csv)
    assert got['any'].dtype == np.float32 and [None if np.isnan(o) else o for o in got['any']] == [expected_any(r) for r in rows]

def test_a_contradiction_names_five_and_counts_the_rest(tmp_path):
    (tmp_path/'l.csv').write_text('\n'.join(['ID,any,subdural', *(f'{o},0,1' for o in 'abcdefg'), 'h,1,1', 'i,0,0']))
    with pytest.raises(LabelError, match=r'for 7 images \(a, b, c, d, e and 2 more\); correct the one or the other'): read_labels(tmp_path/'l.csv')

def test_the_warning_points_at_who_reads(tmp_path):
    as_wide(_preds(1).assign(any=1, **dict.fromkeys(SUBTYPES, 0))[['sop', *LABELS]], tmp_path/'l.csv')
    with pytest.warns(UserWarning, match=r'for 1 images \(ID_0\); leave those subtypes blank') as told: read_labels(tmp_path/'l.csv')
    assert told[0].filename == __file__

@settings(max_examples=40, deadline=None)
@given(df=tables, seed=st.integers(0, 9))
def test_submission_has_the_samples_order(tmp_path_factory, df, seed):
    root = tmp_path_factory.mktemp('s')
    preds = df.assign(**{l:np.random.default_rng(seed).random(len(df)) for l in LABELS})
    sample = to_long(df).sample(frac=1, random_state=seed)
    sample.to_csv(root/'sample.csv', index=False)
    write_submission(preds.sample(frac=1, random_state=seed), root/'sample.csv', root/'sub.csv')
    sub = pd.read_csv(root/'sub.csv')
    assert sub.ID.tolist() == sample.ID.tolist()
    assert np.allclose(sub.set_index('ID').Label[[f'{preds.sop[0]}_{l}' for l in LABELS]], preds.loc[0, list(LABELS)].astype(float), atol=1e-6)
    assert sub.Label.between(1e-6, 1-1e-6).all()

def _preds(n=3): return pd.DataFrame(dict(sop=[f'ID_{i}' for i in range(n)], **dict.fromkeys(LABELS, .5)))

@pytest.mark.parametrize('preds,says', [
    (_preds(2), '6 ids of sample.csv have no prediction: ID_2'), (pd.concat([_preds(), _preds(1)]), 'more than one row: ID_0'),
    (_preds().assign(any=[.1, np.nan, .2]), 'no probability in 0..1: ID_1'), (_preds().assign(any=1.5), 'no probability'), (_preds().drop(columns='subdural'), 'lack the columns subdural'),
    (_preds().assign(sop=['ID_0', None, 'ID_2']), 'no id')])
def test_bad_submissions_write_nothing(tmp_path, preds, says):
    to_long(_preds()).to_csv(tmp_path/'sample.csv', index=False)
    with pytest.raises(LabelError) as e: write_submission(preds, tmp_path/'sample.csv', tmp_path/'sub.csv')
    assert says in str(e.value)
    assert [o.name for o in tmp_path.iterdir()] == ['sample.csv']

def test_what_is_not_asked_for_is_left_out_and_told(tmp_path):
    "Predictions of the whole archive, some of whose training files could not be read or lie there twice"
    to_long(_preds()).to_csv(tmp_path/'sample.csv', index=False)
    more = _preds(6).assign(any=.9, error=[None]*4 + ['damaged']*2)[3:]
    more.loc[5, list(LABELS)] = np.nan
    res = write_submission(pd.concat([more, more[:1], _preds()]), tmp_path/'sample.csv', tmp_path/'sub.csv')
    assert res.attrs['extra'] == ['ID_3', 'ID_4', 'ID_5'] and len(res) == 18
    filled = write_submission(pd.concat([more[:2], _preds(2)]), tmp_path/'sample.csv', tmp_path/'sub.csv', fill=True).set_index('ID')
    assert filled.attrs['filled'] == ['ID_2'] and np.isclose(filled.Label['ID_2_any'], .5)

def test_a_stray_file_does_not_block_a_submission(tmp_path):
    to_long(_preds()).to_csv(tmp_path/'sample.csv', index=False)
    stray = pd.DataFrame(dict(sop=[None], error=['not a DICOM file'], **dict.fromkeys(LABELS, [np.nan])))
    assert len(write_submission(pd.concat([_preds(), stray]), tmp_path/'sample.csv', tmp_path/'sub.csv')) == 18

_seen = _preds().assign(any=[.1, .3, .8])
_damaged = _seen.assign(error=[None, 'damaged', None], **{l:_seen[l].where(_seen.index != 1) for l in LABELS})

@pytest.mark.parametrize('preds', [_damaged, _seen.drop(index=1)], ids=['damaged', 'not there'])
def test_what_can_not_be_read_gets_the_mean_when_asked(tmp_path, preds):
    to_long(_preds()).to_csv(tmp_path/'sample.csv', index=False)
    with pytest.raises(LabelError, match='ID_1'): write_submission(preds, tmp_path/'sample.csv', tmp_path/'sub.csv')
    assert write_submission(preds, tmp_path/'sample.csv', tmp_path/'sub.csv', fill=True).attrs['filled'] == ['ID_1']
    got = pd.read_csv(tmp_path/'sub.csv').set_index('ID').Label
    assert np.allclose(got[['ID_0_any', 'ID_1_any', 'ID_2_any', 'ID_1_subdural']], [.1, .45, .8, .5])

@pytest.mark.parametrize('preds,says', [(_preds().assign(sop=['a', 'b', 'c']), '18 ids of sample.csv have no prediction'),
    (_preds().assign(any=[.1, np.nan, .2]), 'no probability in 0..1: ID_1'), (_preds().assign(any=1.5), 'no probability')])
def test_filling_hides_no_mistake(tmp_path, preds, says):
    to_long(_preds()).to_csv(tmp_path/'sample.csv', index=False)
    with pytest.raises(LabelError) as e: write_submission(preds, tmp_path/'sample.csv', tmp_path/'sub.csv', fill=True)
    assert says in str(e.value) and not (tmp_path/'sub.csv').exists()

def test_a_line_of_no_label_can_not_be_filled(tmp_path):
    pd.concat([to_long(_preds()), pd.DataFrame(dict(ID=['ID_0_extradural'], Label=[.5]))]).to_csv(tmp_path/'sample.csv', index=False)
    with pytest.raises(LabelError, match='1 ids of sample.csv have no prediction: ID_0_extradural'): write_submission(_preds(), tmp_path/'sample.csv', tmp_path/'sub.csv', fill=True)

def test_a_submission_of_the_challenges_size(tmp_path):
    "All 727,392 lines, in the order of a shuffled sample, to the last digit written"
    n,rng = 121_232,np.random.default_rng(5)
    sops = np.array([f'ID_{i:09x}' for i in rng.choice(2**36, n, replace=False)], object)
    preds = pd.DataFrame(dict(sop=sops, **{l:rng.random(n).round(6) for l in LABELS}))
    row,col = np.divmod(rng.permutation(6*n), 6)
    asked = sops[row] + np.array([f'_{l}' for l in LABELS], object)[col]
    pd.DataFrame(dict(ID=asked, Label=.5)).to_csv(tmp_path/'sample.csv', index=False)
    write_submission(preds, tmp_path/'sample.csv', tmp_path/'sub.csv')
    got = pd.read_csv(tmp_path/'sub.csv')
    assert len(got) == 727_392 and (got.ID.to_numpy(object) == asked).all()
    np.testing.assert_allclose(got.Label, preds[list(LABELS)].to_numpy()[row,col].clip(1e-6, 1-1e-6), atol=1e-9)

def test_predictions_round_trip(tmp_path):
    df = _preds().assign(path='a', error=[None, 'bad', None])
    save_predictions(df, tmp_path/'p.csv')
    back = load_predictions(tmp_path/'p.csv')
    assert back.error.isna().tolist() == [True, False, True] and back.sop.tolist() == df.sop.tolist() and 'series_any' not in back

def test_the_real_labels(real, tmp_path):
    "The design's counts of stage 1"
    subprocess.run([sys.executable, str(real/'make_kaggle_csv.py'), str(tmp_path/'l.csv')], check=True)
    df = read_labels(tmp_path/'l.csv')
    assert len(df) == 674_258 and df.attrs['repeats'] == 24
    assert df[list(LABELS)].sum().astype(int).tolist() == [97_103, 2_761, 32_564, 23_766, 32_122, 42_496]
    assert df[list(SUBTYPES)].sum(axis=1).value_counts().sort_index().tolist() == [577_155, 67_969, 22_587, 5_642, 885, 20]
    assert (df[list(SUBTYPES)].max(axis=1) == df['any']).all()

def test_a_wide_file_keeps_its_sources(tmp_path):
    (tmp_path/'w.csv').write_text('ID,any,source\na,1,north\nb,0,south\na,1,north\nc,,\n')
    df = read_labels(tmp_path/'w.csv')
    assert df.sop.tolist() == ['a', 'b', 'c'] and df.source[:2].tolist() == ['north', 'south'] and df['any'][:2].tolist() == [1, 0]
