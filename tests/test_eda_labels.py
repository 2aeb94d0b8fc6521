"Label tables against the published figures of the challenge, other people's formulas, and laws"
import subprocess, sys, warnings
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest
from sklearn.metrics import matthews_corrcoef
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS, SUBTYPES
from rsna_ich.data.label_files import read_labels
from rsna_ich.eda.labels import (by_height, cooccurrence, correlation_order, group_counts, guessing_score, label_combinations,
    label_counts, label_oddities, label_runs, labels_section, phi_coefficients, plot_combinations, plot_cooccurrence, plot_height,
    plot_prevalence, plot_runs, strongest_pairs, subtypes_per_image, wilson)

settings.register_profile('busy', deadline=None)
settings.load_profile('busy')

def table(values, **more): return pd.DataFrame(np.asarray(values, np.float32), columns=list(LABELS)).assign(sop=[f'ID_{i}' for i in range(len(values))], **more)

def made_up(n=400, seed=0, unknown=.1):
    "Labels that agree, some of them not known"
    rng = np.random.default_rng(seed)
    v = (rng.random((n, 6)) < [0, .02, .2, .15, .2, .3]).astype(float)
    v[:,0] = v[:,1:].max(1)
    v[rng.random(v.shape) < unknown] = np.nan
    return table(v)

@pytest.fixture(scope='module')
def kaggle(real, tmp_path_factory):
    "The labels of stage 1 as Kaggle gives them"
    csv = tmp_path_factory.mktemp('kaggle')/'stage_1_train.csv'
    subprocess.run([sys.executable, real/'make_kaggle_csv.py', csv], check=True)
    return read_labels(csv)

def test_the_published_figures(kaggle):
    n = labels_section(kaggle).numbers
    assert n['images'] == 674_258 and n['oddities'] == dict(repeated_lines=24, repeated_images=0, any_without_subtype=0, subtype_without_any=0, without_label=0, partly_unknown=0)
    assert [n['labels'][l]['positive'] for l in LABELS] == [97_103, 2_761, 32_564, 23_766, 32_122, 42_496]
    assert n['subtypes_per_image'] == [577_155, 67_969, 22_587, 5_642, 885, 20] and round(n['guessing_score'], 4) == .2320
    pair = {frozenset((r['a'], r['b'])):r['phi'] for r in n['phi_pairs']}
    wanted = {('intraparenchymal', 'intraventricular'):.318, ('intraparenchymal', 'subarachnoid'):.220, ('intraventricular', 'subarachnoid'):.212, ('subarachnoid', 'subdural'):.186,
        ('intraparenchymal', 'subdural'):.128, ('intraventricular', 'subdural'):.063}
    assert {k:round(pair[frozenset(k)], 3) for k in wanted} == wanted
    assert all(abs(pair[frozenset(('epidural', o))]) < .05 for o in SUBTYPES[1:])
    assert sum(r['images'] for r in n['combinations']) == 674_258 and n['combinations'][0] == dict(subtypes=[], images=577_155)

def test_the_figures_another_way(kaggle):
    v = kaggle[list(SUBTYPES)].to_numpy(int)
    assert np.allclose(phi_coefficients(kaggle), np.corrcoef(v.T), atol=1e-9)
    assert (cooccurrence(kaggle).to_numpy() == v.T @ v).all()
    alone = (v.sum(1) == 1) & (v[:,4] == 1)
    combos = label_combinations(kaggle)
    assert combos.images[combos.subdural & (combos[list(SUBTYPES)].sum(axis=1) == 1)].item() == alone.sum()

@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_is_scipys(k, n):
    k = min(k, n)
    assert np.allclose(wilson(k, n), binomtest(k, n).proportion_ci(method='wilson'), atol=1e-6)

@given(st.integers(0, 10**6))
def test_phi_is_matthews(seed):
    df = made_up(60, seed, unknown=.2)
    m = phi_coefficients(df)
    for a,b in (('subdural', 'subarachnoid'), ('intraventricular', 'intraparenchymal')):
        both = df[[a, b]].dropna()
        one = both.nunique().min() < 2
        assert np.isnan(m.loc[a,b]) if one else m.loc[a,b] == pytest.approx(matthews_corrcoef(both[a], both[b]), abs=1e-9)
    assert sorted(correlation_order(m)) == sorted(SUBTYPES)

def test_unknown_labels_count_nowhere():
    df = made_up(unknown=.3)
    c = label_counts(df)
    assert (c.n + c.unknown == len(df)).all() and (c.positive == (df[list(LABELS)] == 1).sum()).all()
    assert subtypes_per_image(df).sum() == label_combinations(df).images.sum() == df[list(SUBTYPES)].notna().all(axis=1).sum()

def test_the_score_of_guessing_is_the_metrics():
    from rsna_ich.learn.metrics import prevalence_log_loss
    for df in (made_up(), made_up(unknown=.4), made_up(3, unknown=.9)):
        assert guessing_score(label_counts(df)) == pytest.approx(prevalence_log_loss(df), nan_ok=True)

def test_oddities_are_counted():
    nan = np.nan
    df = table([[1,0,0,0,0,0], [0,0,1,0,0,0], [nan]*6, [1,nan,0,0,0,1], [1,0,nan,0,0,0], [0]*6])
    df.loc[5, 'sop'] = 'ID_0'
    assert label_oddities(df) == dict(repeated_lines=0, repeated_images=1, any_without_subtype=1, subtype_without_any=1, without_label=1, partly_unknown=2)
    actions = {f.topic:f.action for f in labels_section(df).findings}
    assert actions['subtype without any'] == 'look' and actions['repeated images'] == 'fix' and 'any agrees' not in actions

def in_series(*series):
    "A placed table: for each series the values of `any`, 5 mm apart"
    row = lambda s,i,n,y: dict(sop=f'ID_{s}_{i}', series=f's{s}', study=f's{s}', patient=f'p{s//2}', position=5.*i, slice=i, height=i/max(n-1, 1), **dict.fromkeys(LABELS, float(y)))
    rows = [row(s, i, len(v), y) for s,v in enumerate(series) for i,y in enumerate(v)]
    return pd.DataFrame(rows)

def test_runs_end_with_their_series():
    df = in_series([0,1,1], [1,0,0,1,1,1], [0,0], [1,np.nan,1])
    r = label_runs(df, least=1)
    assert r.series.tolist() == ['s0', 's1', 's1', 's3', 's3'] and r.slices.tolist() == [2, 1, 3, 1, 1] and r.mm.tolist() == [10., 5., 15., 5., 5.]
    assert len(label_runs(df[:0])) == 0 and set(label_runs(df).series) == {'s1'} # the others are too short

@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=5))
def test_runs_hold_each_positive_once(series):
    df = in_series(*series)
    r = label_runs(df, least=1)
    assert r.slices.sum() == sum(map(sum, series)) and len(r) == sum(sum(1 for a,b in zip([False, *v], v) if b and not a) for v in series)

def test_groups_and_heights():
    df = in_series([0]*10, [0]*5 + [1]*5, [0]*3 + [np.nan])
    g = group_counts(df, 'patient')
    assert g.loc['any', ['n', 'unknown', 'positive']].tolist() == [1, 1, 1] # of the second patient nothing is known for sure
    h = by_height(df, parts=2)
    assert h['any'].tolist() == [0., .5]

@pytest.mark.parametrize('v', [[[np.nan]*6]*3, [[0]*6]*3, [[1]*6], [[0]*6]], ids=['unknown', 'all negative', 'one positive', 'one negative'])
def test_a_poor_table_makes_a_section(v):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = labels_section(table(v))
    assert s.numbers['images'] == len(v) and 'nan' not in s.html.lower()

def test_figures_draw_on_given_axes():
    from matplotlib.figure import Figure
    df = made_up()
    runs = in_series([0,1,1,0,0,1])
    todo = {plot_prevalence:label_counts(df), plot_combinations:label_combinations(df), plot_cooccurrence:df, plot_runs:runs, plot_height:by_height(runs)}
    for f,o in todo.items():
        fig = Figure(layout='constrained')
        assert f(o, ax=fig.subplots(1, 2)[1]) is fig and isinstance(f(o), Figure)

def test_nothing_to_count():
    with pytest.raises(DataError, match='holds no image'): labels_section(made_up(4)[:0])
    assert len(strongest_pairs(phi_coefficients(table([[0]*6]*3)))) == 0
