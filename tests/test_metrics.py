"What the metrics notebook can't show: laws under random input, scikit-learn as peer, a fastai learner, bad input."
import json, math, subprocess, sys, warnings
import matplotlib, numpy as np, pandas as pd, pytest, torch
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as skm
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS, LABEL_WEIGHTS
from rsna_ich.report.plots import LABEL_COLORS
from rsna_ich.learn.metrics import (WeightedLogLoss, accuracy_any, auc, auc_any, average_precision, ich_metrics, label_metrics,
    prevalence_log_loss, summarise, weighted_log_loss)
from rsna_ich.answer.figures import plot_pr, plot_roc

settings.register_profile('shared machine', deadline=None)
settings.load_profile('shared machine')
W, nan = np.array(LABEL_WEIGHTS), float('nan')
sizes = st.integers(1, 12)

@st.composite
def cases(draw, unknown=True):
    "Probabilities and labels [N,6], some of them unknown"
    n = draw(sizes)
    probs = draw(arrays(np.float64, (n, 6), elements=st.floats(.001, .999)))
    return probs, draw(arrays(np.float64, (n, 6), elements=st.sampled_from([0., 1., nan] if unknown else [0., 1.])))

def many(n=400, seed=0, unknown=.2):
    rng = np.random.default_rng(seed)
    t = (rng.random((n, 6)) < [.3, .05, .2, .1, .2, .25]).astype(float)
    p = 1/(1+np.exp(-(2*t-1.5+rng.normal(size=t.shape))))
    return p, np.where(rng.random(t.shape) < unknown, nan, t)

def logit(p): return torch.logit(torch.tensor(p))

# -- the competition's number

def test_hand_worked():
    p, t = np.full((1, 6), .1), np.array([[1., 0, 0, 0, 0, 1.]])
    assert weighted_log_loss(p, t) == pytest.approx((-3*math.log(.1) - 4*math.log(.9))/7)
    assert weighted_log_loss(p, np.array([[1., nan, nan, nan, nan, 0]])) == pytest.approx((-2*math.log(.1) - math.log(.9))/3)
    assert weighted_log_loss(np.ones((1, 6)), np.zeros((1, 6))) == pytest.approx(15*math.log(10), rel=1e-2)
    assert weighted_log_loss(np.ones((1, 6)), np.ones((1, 6))) == pytest.approx(0, abs=1e-14)
    assert math.isnan(weighted_log_loss(p, t*nan)) and math.isnan(prevalence_log_loss(t*nan))

@given(cases())
def test_sklearn_agrees(case):
    p,t = case
    known = ~np.isnan(t)
    assume(known.any())
    want = skm.log_loss(t[known], p[known], sample_weight=np.broadcast_to(W, t.shape)[known], labels=[0, 1])
    assert weighted_log_loss(p, t) == pytest.approx(want, rel=1e-9)

@given(cases(), st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(case, random):
    p,t = case
    i = random.sample(range(len(p)), len(p))
    assert weighted_log_loss(p[i], t[i]) == pytest.approx(weighted_log_loss(p, t), nan_ok=True)
    assert prevalence_log_loss(t[i]) == pytest.approx(prevalence_log_loss(t), nan_ok=True)

@given(cases())
def test_masking_is_dropping(case):
    p,t = case
    more_p,more_t = np.vstack([p, np.full((3, 6), .7)]),np.vstack([t, np.full((3, 6), nan)])
    assert weighted_log_loss(more_p, more_t) == pytest.approx(weighted_log_loss(p, t), nan_ok=True)
    pd.testing.assert_frame_equal(label_metrics(more_p, more_t), label_metrics(p, t))
    assert WeightedLogLoss()(logit(more_p), torch.tensor(more_t)).item() == pytest.approx(WeightedLogLoss()(logit(p), torch.tensor(t)).item(), abs=1e-6)

@given(cases())
def test_no_constant_beats_the_prevalences(case):
    p,t = case
    assume(not np.isnan(t).all())
    assert 0 <= prevalence_log_loss(t) <= weighted_log_loss(np.broadcast_to(p[:1], t.shape), t) + 1e-9
    assert weighted_log_loss(p, t) >= 0

@pytest.mark.parametrize('form', [np.float32, np.float64, 'tensor', 'half', 'table', 'nullable'])
def test_takes_what_people_have(form):
    p,t = many()
    want = weighted_log_loss(p, t)
    if form == 'tensor': p,t = torch.tensor(p, requires_grad=True),torch.tensor(t)
    elif form == 'half': p,t = torch.tensor(p).half(),torch.tensor(t).half()
    elif form == 'table': p,t = (pd.DataFrame(o, columns=LABELS)[list(reversed(LABELS))].assign(sop='x') for o in (p, t))
    elif form == 'nullable': t = pd.DataFrame(t, columns=LABELS).convert_dtypes()
    else: p,t = p.astype(form),t.astype(form)
    assert weighted_log_loss(p, t) == pytest.approx(want, rel=2e-3 if form=='half' else 1e-5)

# -- the loss

@given(cases())
def test_loss_is_the_metric(case):
    p,t = case
    got = WeightedLogLoss()(logit(p), torch.tensor(t)).item()
    assert got == pytest.approx(0 if np.isnan(t).all() else weighted_log_loss(p, t), rel=1e-4, abs=1e-6)

@given(cases(unknown=False))
def test_images_average_to_the_loss(case):
    p,t = case
    each = WeightedLogLoss(reduction='none')(logit(p), torch.tensor(t))
    assert each.shape == (len(p),)
    assert each.mean().item() == pytest.approx(WeightedLogLoss()(logit(p), torch.tensor(t)).item(), rel=1e-5)
    assert each.tolist() == pytest.approx([weighted_log_loss(p[i:i+1], t[i:i+1]) for i in range(len(p))], rel=1e-4)

def test_gradient_by_hand_and_by_differences():
    p,t = many(8)
    x,y = logit(p).float().requires_grad_(),torch.tensor(t).float()
    WeightedLogLoss()(x, y).backward()
    w = W * ~np.isnan(t)
    np.testing.assert_allclose(x.grad, w*(p - np.nan_to_num(t))/w.sum(), atol=1e-6)
    assert (x.grad[y.isnan()] == 0).all()
    step = torch.zeros_like(x)
    step[0,0] = 1e-2
    with torch.no_grad(): slope = (WeightedLogLoss()(x+step, y) - WeightedLogLoss()(x-step, y)) / 2e-2
    assert slope.item() == pytest.approx(x.grad[0,0].item(), abs=1e-4)

@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_nothing_known_costs_nothing(reduction):
    x = torch.randn(3, 6, requires_grad=True)
    loss = WeightedLogLoss(reduction=reduction)(x, torch.full((3, 6), nan))
    loss.sum().backward()
    assert (loss == 0).all() and (x.grad == 0).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.tensor([[60000., -60000, 30, -30, 0, 5]]).to(dtype).requires_grad_()
    t = torch.tensor([[0., 1, 1, 0, 1, 0]])
    loss = WeightedLogLoss()(x, t)
    loss.backward()
    assert loss.dtype is torch.float32 and loss.isfinite() and x.grad.isfinite().all()
    assert loss.item() == pytest.approx(WeightedLogLoss()(x.detach().float(), t).item())
    with torch.autocast('cpu', torch.bfloat16): assert WeightedLogLoss()(x, t).item() == loss.item()

def test_labels_may_be_bool_or_int():
    p,t = many(unknown=0)
    want = WeightedLogLoss()(logit(p), torch.tensor(t))
    for dtype in (torch.bool, torch.int64, torch.float16): assert torch.allclose(WeightedLogLoss()(logit(p), torch.tensor(t).to(dtype)), want)

@pytest.mark.parametrize('a,b', [((2, 6), (3, 6)), ((2, 5), (2, 5)), ((6,), (2, 6))])
def test_loss_refuses_other_shapes(a, b):
    with pytest.raises(DataError, match=r'\[B,6\] both, got'): WeightedLogLoss()(torch.zeros(a), torch.zeros(b))

# -- label by label

@pytest.mark.parametrize('thresh', [.5, .2, [.5, .1, .3, .6, .7, .4]])
def test_table_agrees_with_sklearn(thresh):
    p,t = many()
    table = label_metrics(p, t, thresh)
    assert table.index.tolist() == list(LABELS)
    for i,label in enumerate(LABELS):
        known = ~np.isnan(t[:,i])
        y,s = t[known,i],p[known,i]
        said = s > np.broadcast_to(thresh, 6)[i]
        want = dict(n=len(y), n_pos=y.sum(), prevalence=y.mean(), auc=skm.roc_auc_score(y, s), average_precision=skm.average_precision_score(y, s),
            sensitivity=skm.recall_score(y, said), specificity=skm.recall_score(y, said, pos_label=0), accuracy=skm.accuracy_score(y, said),
            precision=skm.precision_score(y, said), recall=skm.recall_score(y, said), f1=skm.f1_score(y, said))
        assert table.loc[label].to_dict() == pytest.approx(want)

@given(cases())
def test_undefined_is_nan_and_silent(case):
    p,t = case
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        table = label_metrics(p, t)
    both = (np.nansum(t, 0) > 0) & (np.nansum(1-t, 0) > 0)
    assert (table.auc.notna() == both).all() and (table.average_precision.notna() == both).all()
    assert table.drop(columns=['n', 'n_pos']).stack().dropna().between(0, 1).all()
    assert auc(p, t).equals(table.auc) and average_precision(p, t).equals(table.average_precision)

@given(cases())
def test_auc_depends_on_the_ranks_alone(case):
    p,t = case
    p = p.round(2)
    pd.testing.assert_series_equal(auc(p**3, t), auc(p, t))
    pd.testing.assert_series_equal(auc(1-p, t), 1-auc(p, t))

# -- the record

@given(cases())
@settings(max_examples=30)
def test_summary_is_json(case):
    p,t = case
    s = summarise(p, t, [f'p{i//2}' for i in range(len(p))])
    assert json.loads(json.dumps(s, allow_nan=False)) == s
    assert s['n_slices'] == len(p) and s['n_patients'] == (len(p)+1)//2
    assert all(list(v) == list(LABELS) for v in s.values() if isinstance(v, dict))
    assert s['n_positive'] == {k:int(v) for k,v in zip(LABELS, np.nansum(t, 0))}

def test_summary_holds_what_is_asked_for():
    p,t = many()
    s = summarise(p, t)
    wanted = 'weighted_log_loss prevalence_log_loss auc average_precision accuracy precision recall sensitivity specificity n_slices n_positive n_patients'
    assert set(wanted.split()) <= set(s) and s['n_patients'] is None
    assert s['weighted_log_loss'] == weighted_log_loss(p, t) and s['auc']['any'] == auc_any(p, t) and s['accuracy']['any'] == accuracy_any(p, t)

p0,t0 = many(5)

@pytest.mark.parametrize('f', [weighted_log_loss, label_metrics, auc, summarise, accuracy_any, plot_roc])
@pytest.mark.parametrize('p,t,says', [(p0[:4], t0, r'got \[4, 6\] and \[5, 6\]'), (p0[:,:5], t0[:,:5], r'got \[5, 5\]'), (p0[0], t0[0], r'got \[6\]'),
    (p0[:0], t0[:0], r'got \[0, 6\]'), (p0+1, t0, '30 of 30 probabilities'), (p0*nan, t0, 'not finite'), (np.log(p0), t0, 'sigmoid'),
    (p0*np.inf, t0, 'not finite'), (p0, np.full_like(t0, .5), '30 of 30 labels'), (p0, np.full(t0.shape, 'no'), 'are numbers'),
    (p0, pd.DataFrame(t0[:,:5], columns=LABELS[:5]), 'lacks subdural'), (None, t0, r'got \[\] and')])
def test_bad_input_is_named(f, p, t, says):
    with pytest.raises(DataError, match=says): f(p, t)

def test_patients_must_fit():
    with pytest.raises(DataError, match='5 predictions have 2 patients'): summarise(p0, t0, ['a', 'b'])

# -- figures

@pytest.mark.parametrize('plot,score', [(plot_roc, auc), (plot_pr, average_precision)])
def test_curves(plot, score):
    p,t = many()
    t[:,1] = 0
    fig = plot(p, t)
    ax, = fig.axes
    assert [o.get_text() for o in ax.get_legend().get_texts()] == [f'{k} (undefined)' if np.isnan(v) else f'{k} {v:.3f}' for k,v in score(p, t).items()]
    assert [o.get_color() for o in ax.lines] == list(LABEL_COLORS.values()) and len(ax.lines[1].get_xdata()) == 0
    x,y = map(np.asarray, ax.lines[0].get_data())
    assert np.abs(np.trapezoid(y, x)) == pytest.approx(score(p, t)['any'], abs=.01)
    assert not matplotlib._pylab_helpers.Gcf.figs

def test_curves_draw_on_a_given_axes():
    axs = matplotlib.figure.Figure().subplots(1, 2)
    assert plot_roc(*many(), ax=axs[0]) is plot_pr(*many(), ax=axs[1]) is axs[0].figure
    assert len(axs[0].lines) == len(axs[1].lines) == 6

# -- with fastai

def test_import_leaves_fastai_alone():
    code = "import sys, rsna_ich.learn.metrics; sys.exit(any(o.split('.')[0]=='fastai' for o in sys.modules))"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def same():
    "A model, with a parameter as fastai expects, that returns what it is given"
    model = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(model.weight)
    return model

def test_in_a_learner():
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.torch_core import TensorMultiCategory
    p,t = many(300)
    x, y = logit(p).float(), torch.tensor(t).float()
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64)
    learn = Learner(DataLoaders(dl, dl), same(), loss_func=WeightedLogLoss(), metrics=ich_metrics(), opt_func=lambda *a, **kw: None)
    assert list(learn.validate())[1:] == pytest.approx([weighted_log_loss(p, t), accuracy_any(p, t), auc_any(p, t)], rel=1e-5)
    typed = WeightedLogLoss()(x, TensorMultiCategory(y))
    assert type(typed) is torch.Tensor and typed.item() == pytest.approx(weighted_log_loss(p, t), rel=1e-5)

def test_get_preds_with_fastai():
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    p,t = many(100, unknown=0)
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(logit(p).float(), torch.tensor(t).float()), batch_size=32)
    learn = Learner(DataLoaders(dl, dl), same(), loss_func=WeightedLogLoss(), opt_func=lambda *a, **kw: None)
    probs,_,decoded,losses = learn.get_preds(dl=dl, with_decoded=True, with_loss=True, reorder=False)
    np.testing.assert_allclose(probs, p, atol=1e-5)
    assert (decoded.numpy() == (p > .5)).all() and losses.shape == (100,)
    assert losses.mean().item() == pytest.approx(weighted_log_loss(p, t), rel=1e-5)
