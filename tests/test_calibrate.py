"Calibration: laws under random input, known temperatures found again, fresh patients, and thresholds counted by hand"
import json
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, f1_score
from rsna_ich.core.labels import LABELS
from rsna_ich.learn.metrics import auc, weighted_log_loss
from rsna_ich.learn.calibration import (apply_temperature, brier_score, calibration_error, fit_calibration, fit_temperature, make_coherent,
    operating_points, reliability_table)
from rsna_ich.answer.figures import plot_reliability

settings.register_profile('shared machine', deadline=None)
settings.load_profile('shared machine')

@st.composite
def cases(draw):
    "Probabilities, certain ones included, and labels [N,6], some of them unknown"
    n = draw(st.integers(1, 60))
    return draw(arrays(np.float64, (n, 6), elements=st.floats(0, 1))), draw(arrays(np.float64, (n, 6), elements=st.sampled_from([0., 1., np.nan])))

def patients(n, seed, temperature=1.):
    "A model that is as sure as `temperature` makes it, on patients with much in common within each"
    rng = np.random.default_rng(seed)
    z = -3 + rng.normal(size=(n, 1, 5))*1.5 + rng.normal(size=(n, 20, 5))
    p = expit(z.reshape(-1, 5))
    t = (rng.random(p.shape) < p).astype(float)
    true = np.c_[1-(1-p).prod(1), p]
    return expit(logit(true)/temperature), np.c_[t.max(1), t]

@pytest.mark.parametrize('temperature', [.4, .5, 1., 1.7])
def test_a_known_temperature_is_found_and_holds_on_fresh_patients(temperature):
    p,t = patients(400, 0, temperature)
    T = fit_temperature(p, t)
    assert np.allclose(T*temperature, 1, atol=.15)
    fresh_p,fresh_t = patients(400, 1, temperature)
    after,before = apply_temperature(fresh_p, T),make_coherent(fresh_p)
    if temperature == 1: assert weighted_log_loss(after, fresh_t) < weighted_log_loss(before, fresh_t) + 1e-3
    else:
        assert weighted_log_loss(after, fresh_t) < weighted_log_loss(before, fresh_t)
        assert calibration_error(after, fresh_t).sum() < calibration_error(before, fresh_t).sum()

@given(cases())
@settings(max_examples=60)
def test_the_loss_on_the_slices_of_the_fit_never_rises(case):
    p,t = case
    if np.isnan(t).all(): t[0,0] = 1
    cal = fit_calibration(p, t, {})
    assert cal['after']['weighted_log_loss'] <= cal['before']['weighted_log_loss'] + 1e-12
    assert json.loads(json.dumps(cal, allow_nan=False)) == cal
    assert cal['after']['weighted_log_loss'] == pytest.approx(weighted_log_loss(apply_temperature(p, cal['temperature']), t), abs=1e-12)

def test_each_label_alone_never_loses():
    p,t = patients(30, 5, .8)
    for i in range(6):
        only = np.full_like(t, np.nan)
        only[:,i] = t[:,i]
        T = fit_temperature(p, only)
        assert weighted_log_loss(expit(logit(p)/T.to_numpy()), only) <= weighted_log_loss(p, only)
        assert (T.drop(LABELS[i]) == 1).all()

@given(cases(), st.floats(.2, 5))
def test_order_stays_and_any_is_never_below(case, T):
    p,_ = case
    q = apply_temperature(p, dict.fromkeys(LABELS, T))
    assert ((q >= 0) & (q <= 1)).all() and (q[:,0] >= q[:,1:].max(1)).all()
    i = np.argsort(p[:,3], kind='stable')
    assert (np.diff(q[i,3]) >= 0).all()

def test_auc_of_subtypes_stays():
    p,t = patients(100, 2, .5)
    assert auc(apply_temperature(p, dict.fromkeys(LABELS, 2.)), t)[1:].to_numpy() == pytest.approx(auc(p, t)[1:].to_numpy())

def test_scikit_learn_agrees():
    p,t = patients(100, 3, .6)
    t[::7,2] = np.nan
    for i,l in enumerate(LABELS):
        k = ~np.isnan(t[:,i])
        seen,said = calibration_curve(t[k,i], p[k,i], n_bins=15)
        ours = reliability_table(p, t).loc[l]
        assert ours.seen.to_numpy() == pytest.approx(seen) and ours.said.to_numpy() == pytest.approx(said)
        assert brier_score(p, t)[l] == pytest.approx(brier_score_loss(t[k,i], p[k,i]))

def test_a_label_of_which_nothing_is_known():
    p,t = patients(30, 4)
    t[:,2] = np.nan
    assert np.isnan(calibration_error(p, t)[LABELS[2]]) and np.isnan(brier_score(p, t)[LABELS[2]]) and operating_points(p, t)[LABELS[2]] is None
    assert len(plot_reliability(p, t, p).axes) == 6

@given(cases())
@settings(max_examples=60)
def test_thresholds_do_what_they_say(case):
    p,t = case
    for i,(label,points) in enumerate(operating_points(p, t).items()):
        k = ~np.isnan(t[:,i])
        s,y = p[k,i],t[k,i]
        if points is None:
            assert len(np.unique(y)) < 2
            continue
        assert points['n'] == len(y) and points['n_positive'] == y.sum()
        for name in ('sensitivity_95', 'specificity_95', 'best_f1'):
            o = points[name]
            said = s > o['threshold']
            assert (o['sensitivity'], o['specificity']) == pytest.approx((said[y==1].mean(), 1-said[y==0].mean()))
        assert points['sensitivity_95']['sensitivity'] >= .95 and points['specificity_95']['specificity'] >= .95 - 1e-12
        assert points['best_f1']['f1'] >= max(f1_score(y, s > v, zero_division=0) for v in [-1, *s]) - 1e-12
        higher = [v for v in s if v > points['sensitivity_95']['threshold']]
        if higher: assert (s > min(higher))[y==1].mean() < .95 # no higher threshold would do
