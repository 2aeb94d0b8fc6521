"Folds: the laws of the deal, what joins patients, the proof, and folds in a file"
import json, subprocess, sys
import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest
from hypothesis import assume, given, settings, strategies as st
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.data.splits import (PatientSplitter, SavedSplitter, check_folds, fold_table, load_folds, patient_folds, save_folds,
    slice_folds, split_crossings, split_groups)
from rsna_ich.eda.splits import split_section

@st.composite
def tables(draw, pictures=False):
    n,rng = draw(st.integers(6, 200)),np.random.default_rng(draw(st.integers(0, 2**20)))
    y = (rng.random((n, 6)) < draw(st.floats(.02, .5))).astype(np.float32)
    y[rng.random((n, 6)) < draw(st.sampled_from([0, .2]))] = np.nan
    patients = rng.integers(0, max(3, n//draw(st.integers(1, 12))), n)
    df = pd.DataFrame(dict(sop=[f'ID_{i}' for i in range(n)], patient=[f'P{p}' for p in patients])).assign(series='S' + pd.Series(patients.astype(str)), **dict(zip(LABELS, y.T)))
    if not pictures: return df
    hashes = rng.integers(0, n*draw(st.sampled_from([1, 10, 100])), n)
    return df.assign(hu_hash=[None if h%7 == 0 else f'{h:x}' for h in hashes])

def plain(n, n_patients=None):
    "A table of `n` slices without findings, one a patient or of `n_patients`"
    return pd.DataFrame(dict(sop=[f'ID_{i}' for i in range(n)], patient=[f'P{i%(n_patients or n)}' for i in range(n)])).assign(**dict.fromkeys(LABELS, 0.))

@settings(max_examples=1000, deadline=None)
@given(tables(), st.integers(2, 5), st.integers(0, 3))
def test_no_patient_crosses_and_order_does_not_matter(df, k, seed):
    assume(df.patient.nunique() >= k)
    folds = pd.Series(patient_folds(df, k, seed), df.sop)
    assert (folds.groupby(df.patient.to_numpy()).nunique() == 1).all()
    assert set(folds) == set(range(k))
    mixed = df.sample(frac=1, random_state=seed)
    assert pd.Series(patient_folds(mixed, k, seed), mixed.sop).loc[df.sop].tolist() == folds.tolist()
    assert check_folds(df, folds)['fold_slices'] == np.bincount(folds).tolist()
    train,valid = PatientSplitter(k, 0, seed)(df)
    assert sorted(train + valid) == list(range(len(df)))

def shares(df, by):
    "[parts,7] each part's share of all slices and of all positives"
    counts = pd.DataFrame(np.column_stack([df[list(LABELS)].to_numpy() == 1, np.ones(len(df))])).groupby(by).sum()
    return (counts/counts.sum().clip(lower=1)).to_numpy()

@settings(max_examples=300, deadline=None)
@given(tables(pictures=True), st.integers(2, 5), st.integers(0, 3))
def test_the_deal_is_never_worse_than_blind_ones_are_on_average(df, k, seed):
    "The expected sum of squares when each group goes to any fold with the same chance: sum/k + (1-1/k) of the groups' own squares"
    groups = split_groups(df)
    assume(len(set(groups)) >= k)
    own,total = (shares(df, groups)**2).sum(), (shares(df, np.zeros(len(df)))**2).sum()
    assert (shares(df, patient_folds(df, k, seed))**2).sum() <= total/k + (1 - 1/k)*own + 1e-6

@settings(max_examples=300, deadline=None)
@given(tables(pictures=True), st.integers(2, 4))
def test_no_picture_crosses(df, k):
    groups = split_groups(df)
    seen = df.hu_hash.notna()
    assert df.patient.groupby(groups).min().eq(pd.Series(sorted(set(groups)), sorted(set(groups)))).all() # named by its first patient
    assert pd.Series(groups)[seen].groupby(df.hu_hash[seen]).nunique().max() == 1 and pd.Series(groups).groupby(df.patient).nunique().max() == 1
    assume(len(set(groups)) >= k)
    folds = patient_folds(df, k)
    assert split_crossings(df, folds) == dict(patients=0, series=0, pictures=0) and check_folds(df, folds)['pictures_crossing'] == 0

@settings(max_examples=200, deadline=None)
@given(tables(pictures=True))
def test_groups_are_no_larger_than_they_must_be(df):
    "Whoever is joined is linked by a chain of shared pictures, followed here patient by patient"
    links = df.dropna(subset='hu_hash')
    by_patient,by_picture = links.groupby('patient').hu_hash.agg(set),links.groupby('hu_hash').patient.agg(set)
    first = df.patient.min()
    found,todo = set(),{first}
    while todo:
        p = todo.pop()
        found.add(p)
        for h in by_patient.get(p, ()): todo |= by_picture[h] - found
    assert set(df.patient[split_groups(df) == first]) == found

def test_unknown_labels_count_for_nothing():
    rng = np.random.default_rng(0)
    df = plain(300, 30).assign(**{l:(rng.random(300) < .1).astype(np.float32) for l in LABELS})
    hidden = df.assign(epidural=df.epidural.where(df.epidural == 1))
    assert (patient_folds(df, 4) == patient_folds(hidden, 4)).all()
    assert fold_table(hidden, patient_folds(df, 4)).loc['epidural', 'whole'] == 100
    blank = df.assign(subdural=np.nan)
    assert (patient_folds(blank, 4) == patient_folds(df.assign(subdural=0.), 4)).all() and np.isnan(fold_table(blank, patient_folds(blank, 4)).relative['subdural'])

def test_nullable_labels_are_read_as_well():
    df = plain(40, 10)
    df.loc[::3, 'any'] = 1
    assert (patient_folds(df, 3) == patient_folds(df.astype(dict.fromkeys(LABELS, 'Float32')), 3)).all()

def test_the_split_never_changes():
    "The same answer as when this was written: a changed split makes old scores incomparable"
    df = plain(48, 12).assign(patient=[f'ID_{i//4:08x}' for i in range(48)])
    for i,l in enumerate(LABELS): df.loc[i*3:i*8, l] = 1
    assert patient_folds(df, 3)[::4].tolist() == FOLDS

FOLDS = [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 0]

@pytest.mark.parametrize('bad', [None, '', pd.NA])
def test_missing_patients_are_refused(bad):
    df = plain(2).assign(patient=['p', bad])
    with pytest.raises(DataError, match=r'1 slices have no patient id \(ID_1\)'): patient_folds(df, 2)

def test_too_few_groups():
    df = plain(6, 3).assign(hu_hash=['a', 'b', 'c', 'b', 'd', 'e'])
    with pytest.raises(DataError, match="3 patients can't make 4 folds"): patient_folds(df.drop(columns='hu_hash'), 4)
    with pytest.raises(DataError, match="3 patients in 2 groups that share no picture can't make 3 folds"): patient_folds(df, 3)
    with pytest.raises(DataError, match='2 or more'): patient_folds(df, 1)

def test_rare_labels_reach_every_fold():
    df = plain(400)
    df.loc[:9, ['any', 'epidural']] = 1
    df.loc[10:79, ['any', 'subdural']] = 1
    for seed in range(5):
        folds = patient_folds(df, 5, seed)
        assert df.groupby(folds).epidural.sum().tolist() == [2]*5
        assert df.groupby(folds).subdural.sum().tolist() == [14]*5
        assert np.bincount(folds).tolist() == [80]*5

def test_another_seed_deals_otherwise():
    "Not the same parts under other numbers: patients who were together are parted"
    df = plain(600, 60)
    df.loc[::7, ['any', 'subdural']] = 1
    together = lambda f: pd.Series(f).groupby(df.patient).first().pipe(lambda f: f.to_numpy()[:,None] == f.to_numpy())
    assert len({together(patient_folds(df, 4, seed)).tobytes() for seed in range(5)}) == 5

def test_proof_of_a_bad_split():
    df = plain(40, 10).assign(hu_hash=[str(i) for i in range(40)])
    folds = patient_folds(df, 4)
    with pytest.raises(DataError, match='10 patients have slices in more than one fold'): check_folds(df, np.arange(40)//10)
    with pytest.raises(DataError, match='1 pictures have slices'): check_folds(df.assign(hu_hash=df.hu_hash.mask(df.sop.isin([df.sop[folds == f].iloc[0] for f in (0, 1)]), 'same')), folds)
    with pytest.raises(DataError, match=r'1 slices are in no fold \(ID_3\)'): check_folds(df, pd.Series(folds, dtype=float).mask(df.sop == 'ID_3'))
    with pytest.raises(DataError, match=r'1 slices are in the table more than once \(ID_0\)'): check_folds(df.assign(sop=df.sop.replace('ID_10', 'ID_0')), folds)
    with pytest.raises(DataError, match='39 folds for 40 slices'): check_folds(df, folds[1:])

@settings(max_examples=100, deadline=None)
@given(tables(), st.integers(0, 3))
def test_folds_come_back_as_they_were(tmp_path_factory, df, seed):
    assume(df.patient.nunique() >= 3)
    path,folds = tmp_path_factory.mktemp('f')/'f.parquet',patient_folds(df, 3, seed)
    mixed = df.sample(frac=1, random_state=1)
    assert save_folds(mixed, folds[mixed.index], path, seed) == save_folds(df, folds, path, seed)
    assert load_folds(path, mixed).tolist() == folds[mixed.index].tolist()
    assert SavedSplitter(path, 1)(df) == PatientSplitter(3, 1, seed)(df)

@pytest.fixture
def kept(tmp_path):
    df = plain(40, 10)
    df.loc[::7, ['any', 'subdural']] = 1
    save_folds(df, patient_folds(df, 4), tmp_path/'f.parquet')
    return df, tmp_path/'f.parquet'

def changed(df):
    return [(df[1:], '0 of the table are not in it and 1 of it'), (pd.concat([df, df[:1].assign(sop='ID_x')]), r'1 of the table are not in it \(ID_x\) and 0 of it'),
        (df.assign(any=df['any'].mask(df.sop == 'ID_3', np.nan)), 'other values of any;'), (df.assign(any=0., subdural=0.), 'other values of any, subdural;'),
        (df.assign(patient=df.patient.mask(df.sop == 'ID_3', 'P8')), 'other values of patient;'), (df.assign(hu_hash='same'), '1 pictures have slices')]

@pytest.mark.parametrize('i', range(6))
def test_another_table_is_refused(kept, i):
    df,path = kept
    other,says = changed(df)[i]
    with pytest.raises(DataError, match=says): load_folds(path, other)

def test_another_file_is_refused(kept, tmp_path):
    df,path = kept
    (tmp_path/'text').write_text('no')
    df.to_parquet(tmp_path/'other.parquet')
    for name,says in (('none', 'no such file of folds'), ('text', 'not a Parquet file'), ('other.parquet', 'no folds in it')):
        with pytest.raises(DataError, match=f'{name}: {says}'): SavedSplitter(tmp_path/name)
    with pytest.raises(DataError, match='fold 4 is outside 0..3'): SavedSplitter(path, 4)

def test_the_fingerprint_tells_settings_and_labels_apart(kept, tmp_path):
    df,path = kept
    marks = [save_folds(df, patient_folds(df, k, s), tmp_path/'g', s) for k,s in ((4, 0), (4, 1), (3, 0))]
    marks.append(save_folds(df.assign(any=0.), patient_folds(df, 4), tmp_path/'g'))
    assert len(set(marks)) == 4 and json.loads(pq.read_metadata(path).metadata[b'rsna_ich_folds'])['fingerprint'] == marks[0]

def test_section_leaves_out_what_cannot_be_split():
    df = plain(50, 10).assign(series=[f'S{i%10}' for i in range(50)])
    df.loc[0, 'patient'],df.loc[1, list(LABELS)] = None,np.nan
    part = split_section(df, 5)
    assert (part.numbers['slices'], part.numbers['without_patient'], part.numbers['without_label']) == (48, 1, 1)
    assert json.loads(json.dumps(part.numbers)) == part.numbers and '1 labelled slices have no patient id' in ' '.join(o.text for o in part.findings)
    assert len(split_section(plain(5, 1).assign(series='S')).findings) == 1 and split_section(plain(9, 3).assign(series='S')).numbers['folds'] == 3

def test_folds_of_all_the_real_labels(real):
    "The 674,258 real label rows, given to 18,938 made-up patients, those with a bleed to some of them and the epidural ones to few"
    df = pd.read_csv(real/'stage_1_train_labels.csv.gz').rename(columns=dict(ID='sop'))
    rng,n = np.random.default_rng(0),len(df)
    patient = np.where(df.epidural == 1, rng.integers(0, 350, n), np.where(df['any'] == 1, rng.integers(0, 7500, n), rng.integers(0, 18938, n)))
    df = df.assign(patient=[f'P{p}' for p in patient], series=[f'S{p}' for p in patient])
    folds = patient_folds(df)
    table,proof = fold_table(df, folds),check_folds(df, folds)
    assert (n, proof['patients']) == (674258, 18938) and table.relative.max() < .5 and np.ptp(proof['fold_slices']) < 100
    assert split_crossings(df, slice_folds(df) == 0)['patients'] > .99*proof['patients']

def test_splits_load_nothing_that_trains():
    code = "import sys, rsna_ich.data.splits; assert not {'fastai', 'torch', 'timm', 'kornia'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)
