"The bootstrap against the plain way: take the slices of each draw and compute every figure anew"
import numpy as np, pytest
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.learn.metrics import label_metrics, prevalence_log_loss, weighted_log_loss
from rsna_ich.learn.calibration import brier_score, calibration_error
from rsna_ich.learn.intervals import bootstrap_counts, bootstrap_intervals

def case(seed, patients=25, decimals=None):
    rng = np.random.default_rng(seed)
    ids = np.repeat([f'p{i}' for i in range(patients)], rng.integers(1, 15, patients))
    t = (rng.random((len(ids), 6)) < [.3, .03, .2, .1, .2, .25]).astype(float)
    p = rng.beta(1+t, 2-t)
    t[rng.random(t.shape) < .1] = np.nan
    return p if decimals is None else p.round(decimals), t, ids

@pytest.mark.parametrize('seed,decimals,thresh', [(0, None, .5), (1, 1, .5), (2, 2, [.5, .1, .3, .6, .7, .4])])
def test_every_figure_of_every_draw(seed, decimals, thresh):
    p,t,ids = case(seed, decimals=decimals)
    n,(names,codes) = 40,np.unique(ids, return_inverse=True)
    order = {k:i for i,k in enumerate(dict.fromkeys(ids))} # patients are numbered as they come
    draws = []
    for counts in bootstrap_counts(len(names), n, seed=3):
        rows = np.repeat(np.arange(len(ids)), [counts[order[k]] for k in ids])
        table = label_metrics(p[rows], t[rows], thresh).assign(brier=brier_score(p[rows], t[rows]), ece=calibration_error(p[rows], t[rows]))
        whole = dict(weighted_log_loss=[weighted_log_loss(p[rows], t[rows])], prevalence_log_loss=[prevalence_log_loss(t[rows])])
        draws.append(whole | {k:table[k].tolist() for k in table})
    got = bootstrap_intervals(p, t, ids, n, 3, thresh)
    for k in got.index.unique('figure'):
        all_ = np.array([d[k] for d in draws])
        lost = np.isnan(all_).mean(0) > .5
        want = np.nanpercentile(np.where(lost, 0, all_), [2.5, 97.5], axis=0).T
        want[lost] = np.nan
        assert got.loc[[k], ['low', 'high']].to_numpy() == pytest.approx(want, nan_ok=True, abs=1e-9), k

def test_one_patient_has_intervals_of_no_width():
    p,t,_ = case(0)
    table = bootstrap_intervals(p, t, ['a']*len(p), 20)
    for side in ('low', 'high'): assert table[side].to_numpy() == pytest.approx(table.value.to_numpy(), nan_ok=True)

def test_the_seed_decides_and_the_order_of_slices_does_not():
    p,t,ids = case(4)
    a,b = bootstrap_intervals(p, t, ids, 50),bootstrap_intervals(p, t, ids, 50)
    assert a.equals(b) and not a.equals(bootstrap_intervals(p, t, ids, 50, seed=1))
    i = np.r_[0, 1 + np.random.default_rng(0).permutation(len(p)-1)]
    i = i[np.argsort([list(dict.fromkeys(ids)).index(k) for k in ids[i]], kind='stable')] # patients in order, their slices not
    assert np.allclose(bootstrap_intervals(p[i], t[i], ids[i], 50), a, equal_nan=True)

def test_patients_that_are_not_known_are_one_group():
    p,t,ids = case(5)
    ids = ids.astype(object)
    ids[:20] = None
    assert bootstrap_intervals(p, t, ids, 20).notna().any(axis=None)
    with pytest.raises(DataError, match='groups to be drawn by'): bootstrap_intervals(p, t, ids[1:])

def test_labels_of_which_nothing_is_known():
    p,t,ids = case(6)
    t[:,3] = np.nan
    table = bootstrap_intervals(p, t, ids, 20)
    assert table.xs(LABELS[3], level='label').drop('prevalence_log_loss', errors='ignore').isna().all(axis=None) and table.loc['weighted_log_loss'].notna().all(axis=None)
