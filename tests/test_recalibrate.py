"Calibration of models as they answer together: fresh patients, and what is refused"
import json, shutil
import numpy as np, pandas as pd, pytest
from scipy.special import expit, logit
from rsna_ich.core.errors import DataError, ModelError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.metrics import weighted_log_loss
from rsna_ich.learn.calibration import apply_temperature, calibration_error, make_coherent
from rsna_ich.learn.learner import ich_learner
from rsna_ich.learn.series_model import SeriesModel
from rsna_ich.learn.context import held_back_slices, save_series
from rsna_ich.learn.ensembles import load_detectors
from rsna_ich.answer.inference import predict
from rsna_ich.answer.recalibration import calibrate_ensemble, check_unseen

@pytest.fixture(scope='module')
def table(heads): return slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))

@pytest.fixture(scope='module')
def saved(table, tmp_path_factory):
    "Two models of five patients, who are of two folds, and the sixth patient's slices"
    root,new = tmp_path_factory.mktemp('two'),table.patient == table.patient[0]
    for fold in range(2):
        dls = ICHDataLoaders.from_table(table[~new].reset_index(drop=True), size=32, n_folds=2, fold=fold, bs=8)
        ich_learner(dls, 'mobilenetv3_small_050', pretrained=False).save_model(root/f'fold{fold}')
    return root, table[new].reset_index(drop=True)

@pytest.fixture
def two(saved, tmp_path): return shutil.copytree(saved[0], tmp_path/'models')

def made_up(seed, sure=2.5, n=200):
    "Tables of over-confident predictions and of labels, of patients with much in common within each"
    rng = np.random.default_rng(seed)
    p = expit(-3 + rng.normal(size=(n, 1, 5))*1.5 + rng.normal(size=(n, 15, 5))).reshape(-1, 5)
    t = (rng.random(p.shape) < p).astype(float)
    p,t = np.c_[1-(1-p).prod(1), p],np.c_[t.max(1), t]
    ids = dict(sop=[f'ID_{seed}_{i}' for i in range(len(p))], patient=np.repeat([f'P{seed}_{i}' for i in range(n)], 15))
    return [pd.DataFrame(ids | dict(zip(LABELS, o.T))) for o in (expit(logit(p)*sure), t)]

def _values(df): return df[list(LABELS)].to_numpy(float)

def test_an_overconfident_ensemble_is_mended_on_fresh_patients(two):
    preds,labels = made_up(0)
    cal = calibrate_ensemble(two, preds, labels)
    assert cal['after']['weighted_log_loss'] <= cal['before']['weighted_log_loss']
    for i in (0, 1, 2):
        p,t = map(_values, made_up(i))
        before,after = make_coherent(p),apply_temperature(p, cal['temperature'])
        assert (calibration_error(after, t) < calibration_error(before, t)/2).all() and weighted_log_loss(after, t) < weighted_log_loss(before, t)

def test_it_is_applied_by_predict_and_for_that_folder_alone(two, saved):
    new = saved[1]
    before,one = predict(new, two),predict(new, two/'fold0')
    cal = calibrate_ensemble(two, *made_up(0))
    after = predict(new, two)
    np.testing.assert_allclose(_values(after), apply_temperature(_values(before), cal['temperature']), atol=1e-6)
    np.testing.assert_array_equal(after.series_any, after.groupby('series')['any'].transform('max'))
    for o in ([two], load_detectors(two)): np.testing.assert_array_equal(_values(predict(new, o)), _values(after))
    np.testing.assert_array_equal(_values(predict(new, list(load_detectors(two)))), _values(before))
    np.testing.assert_array_equal(_values(predict(new, two/'fold0')), _values(one))

def test_a_single_model_can_have_one(two, saved):
    before = predict(saved[1], two/'fold0')
    cal = calibrate_ensemble(two/'fold0', *made_up(0))
    np.testing.assert_allclose(_values(predict(saved[1], two/'fold0')), apply_temperature(_values(before), cal['temperature']), atol=1e-6)

def test_only_on_patients_that_no_model_knows(two, saved, table):
    assert len(check_unseen(two, saved[1])) == 2
    with pytest.raises(DataError, match='learnt from 5 of these 6 patients'): calibrate_ensemble(two, predict(table, two), table)
    assert not (two/'ensemble.json').exists()
    with pytest.raises(DataError, match='which patient'): check_unseen(two, saved[1].drop(columns='patient'))

def test_a_series_model_knows_the_patients_held_back(two, table):
    one = two/'fold0'
    own = held_back_slices(table, load_detectors(one)[0])
    assert len(check_unseen(one, own)) == 1
    save_series(SeriesModel(load_detectors(one)[0].model[1][-1].in_features), one)
    with pytest.raises(DataError, match='learnt from'): check_unseen(one, own)

def test_a_model_without_patients_is_refused(two, saved):
    config = two/'fold1'/'config.json'
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(data={})))
    with pytest.raises(ModelError, match="doesn't say which patients"): check_unseen(two, saved[1])

def _edit(two, **changes):
    path = two/'ensemble.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

@pytest.mark.parametrize('spoil', [lambda o: (o/'ensemble.json').write_text('{'), lambda o: (o/'ensemble.json').write_text('[]'), lambda o: _edit(o, format=2),
    lambda o: _edit(o, calibration=None), lambda o: _edit(o, calibration=dict(temperature=dict.fromkeys(LABELS, 0))), lambda o: _edit(o, models={}),
    lambda o: shutil.rmtree(o/'fold1'), lambda o: shutil.copytree(o/'fold1', o/'fold2')])
def test_what_does_not_fit_is_refused(two, saved, spoil):
    calibrate_ensemble(two, *made_up(0))
    spoil(two)
    with pytest.raises(ModelError) as e: load_detectors(two)
    assert 'ensemble.json' in str(e.value) and '\n' not in str(e.value)
