"Models: seeds, folders that were touched, and prediction that does not depend on its company"
import json
import numpy as np, pytest
from rsna_ich.core.errors import DataError, ModelError, RsnaIchError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.answer.inference import predict
from rsna_ich.answer.evaluation import seen_patients
from rsna_ich.phantom.files import write_dicom

@pytest.fixture(scope='module')
def table(heads): return slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))

def _train(table, out): return train_model(table, out, 'mobilenetv3_small_050', size=32, epochs=1, lr=3e-3, pretrained=False, n_folds=3, bs=16, crop=False)

@pytest.fixture(scope='module')
def model(table, tmp_path_factory):
    out = tmp_path_factory.mktemp('m')/'model'
    _train(table, out)
    return out

def test_the_same_seed_gives_the_same_weights(table, model, tmp_path):
    _train(table, tmp_path/'again')
    sha = [json.loads((o/'config.json').read_text())['weights_sha256'] for o in (model, tmp_path/'again')]
    assert sha[0] == sha[1]

def test_what_is_kept_with_a_model(model, table):
    cfg = json.loads((model/'config.json').read_text())
    assert cfg['labels'] == list(LABELS) and cfg['chain']['windows'] == ['brain', 'subdural', 'brain_bone'] and cfg['chain']['size'] == 32
    assert cfg['data']['train']['slices'] + cfg['data']['valid']['slices'] == len(table)
    assert cfg['metrics']['validation']['n_slices'] == cfg['data']['valid']['slices']

def test_the_answer_is_calibrated_and_its_data_is_told(model, table):
    cfg = json.loads((model/'config.json').read_text())
    valid = {k:cfg['data']['valid'][k] for k in ('slices', 'patients', 'fingerprint')}
    assert cfg['calibration']['data'] == dict(part='valid', **valid) and 'without bias' in cfg['calibration']['method']
    assert list(cfg['temperature']) == list(cfg['thresholds']) == list(LABELS)
    learn,files = load_model(model),list(table.file[:8])
    learn.calibration = None
    plain = predict(files, learn)[list(LABELS)].to_numpy()
    learn.calibration = dict(temperature=dict.fromkeys(LABELS, 2.))
    softer = predict(files, learn)[list(LABELS)].to_numpy()
    assert np.allclose(softer, 1/(1+np.sqrt(1/plain-1)), atol=1e-5) and (softer[:,0] == softer.max(1)).all()

def test_the_prevalence_is_put_right_before_the_temperature(model):
    from rsna_ich.learn.prior import correct_prior
    learn,p = load_model(model),np.random.default_rng(0).uniform(.01, .99, (50, 6))
    learn.negatives_kept,learn.calibration = .2,dict(temperature=dict.fromkeys(LABELS, 2.))
    assert np.allclose(learn.answer(p)[:,1:], 1/(1+np.sqrt(1/correct_prior(p, .2)-1))[:,1:])

def test_a_model_without_calibration_answers_as_it_did(model, table, tmp_path):
    out,files = _copy(model, tmp_path),list(table.file[:3])
    cfg = json.loads((out/'config.json').read_text())
    for k in ('temperature', 'thresholds', 'calibration'): del cfg[k]
    (out/'config.json').write_text(json.dumps(cfg))
    assert load_model(out).calibration is None and predict(files, out)['any'].notna().all()

@pytest.mark.parametrize('bs,threads', [(1, 1), (7, 1), (64, None), (16, 3)])
def test_prediction_does_not_depend_on_batches_or_threads(model, table, bs, threads):
    files = list(table.file[:20])
    a,b = predict(files, model, bs=10),predict(files, model, bs=bs, threads=threads)
    assert np.allclose(a[list(LABELS)].to_numpy(float), b[list(LABELS)].to_numpy(float), atol=1e-5)

def test_nothing_to_predict(model):
    with pytest.raises(DataError, match='no file to predict'): predict([], model)

@pytest.mark.parametrize('kwargs,says', [(dict(bs=10_000), 'fewer than one batch'), (dict(negatives=0.), 'leave none'), (dict(negatives=-1.), 'leave none'),
    (dict(n_folds=1), '2 or more'), (dict(fold=7), 'outside 0..2'), (dict(arch='vit_tiny_patch16_224'), "can't take images of 32 pixels")])
def test_settings_that_can_not_work_save_no_model(table, tmp_path, kwargs, says):
    kwargs = dict(arch='mobilenetv3_small_050', size=32, epochs=1, lr=3e-3, pretrained=False, n_folds=3, bs=16, crop=False) | kwargs
    with pytest.raises(RsnaIchError, match=says): train_model(table, tmp_path/'m', **kwargs)
    assert not (tmp_path/'m').exists()

def test_training_patients_are_recognised(model, table):
    learn = load_model(model)
    train = json.loads((model/'config.json').read_text())['data']['train']
    assert seen_patients(table, learn) == train['patients'] < table.patient.nunique()
    assert not set(table.patient) & set(train['patient_hashes'])

def test_views_of_training_data_are_not_augmented(model, table):
    from rsna_ich.data.loaders import ICHDataLoaders
    learn = load_model(model, ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16))
    dl = learn.dls.train.new(shuffle=False, drop_last=False)
    assert np.array_equal(learn.tta(dl=dl)[0], learn.tta(dl=dl)[0])

def test_bad_files_keep_their_rows(model, table, tmp_path):
    (tmp_path/'text.dcm').write_text('hello '*99)
    (tmp_path/'empty').touch()
    write_dicom(tmp_path/'mr.dcm', np.zeros((8, 8), np.int16), Modality='MR')
    files = [tmp_path/'text.dcm', table.file[0], tmp_path/'empty', tmp_path/'mr.dcm', table.file[1], tmp_path/'none']
    df = predict(files, model)
    assert df.error.notna().tolist() == [True, False, True, True, False, True]
    assert df['any'].isna().tolist() == df.error.notna().tolist()
    assert np.allclose(df['any'][[1, 4]].astype(float), predict(list(table.file[:2]), model)['any'].astype(float), atol=1e-5)

def test_training_goes_on_from_a_saved_model(model, table):
    from rsna_ich.data.loaders import ICHDataLoaders
    learn = load_model(model, ICHDataLoaders.from_table(table, size=32, n_folds=3, bs=16))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    assert len(learn.recorder.values) == 1

def _copy(model, tmp_path):
    out = tmp_path/'m'
    out.mkdir()
    for o in model.iterdir(): (out/o.name).write_bytes(o.read_bytes())
    return out

def _edit(out, **values):
    cfg = json.loads((out/'config.json').read_text())
    (out/'config.json').write_text(json.dumps(cfg | values))

@pytest.mark.parametrize('values,says', [
    (dict(labels=list(LABELS[::-1])), 'its labels are'), (dict(format=2), 'format 2'), (dict(arch='os.system'), 'timm has no model'), (dict(arch='hf-hub:x/y'), 'timm has no model'),
    (dict(arch='resnet18'), "don't fit the architecture"), (dict(item_size='big'), "can't be used"), (dict(item_size=0), "can't be used"), (dict(negatives_kept=0), "can't be used"), (dict(chain=dict(bogus=1)), "can't be used"),
    (dict(weights_sha256='0'*64), 'not the weights'), (dict(temperature=dict(any=1)), "can't be used"), (dict(temperature=dict.fromkeys(LABELS, -1)), "a temperature is 0.01 to 100"),
    (dict(temperature=dict.fromkeys(LABELS, float('nan'))), "a temperature is"), (dict(thresholds=[.5]*6), "can't be used"), (dict(calibration='by eye'), "can't be used")])
def test_edited_configurations_are_refused(model, tmp_path, values, says):
    out = _copy(model, tmp_path)
    _edit(out, **values)
    with pytest.raises(ModelError) as e: load_model(out)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_missing_parts_are_named(model, tmp_path):
    with pytest.raises(ModelError, match='no saved model here'): load_model(tmp_path)
    out = _copy(model, tmp_path)
    (out/'model.safetensors').unlink()
    with pytest.raises(ModelError, match='the weights are missing'): load_model(out)
    (out/'config.json').write_text('{')
    with pytest.raises(ModelError, match='not readable as JSON'): load_model(out)

def test_a_pickle_in_place_of_the_weights_is_not_run(model, tmp_path):
    import hashlib, pickle
    class Bomb:
        def __reduce__(self): return (exec, (f"open({str(tmp_path/'ran')!r}, 'w')",))
    out = _copy(model, tmp_path)
    data = pickle.dumps(Bomb())
    (out/'model.safetensors').write_bytes(data)
    _edit(out, weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ModelError, match='not readable as safetensors'): load_model(out)
    assert not (tmp_path/'ran').exists()

def test_no_network_is_said(table):
    "`build_model` turns any failure to fetch weights into one line"
    from unittest import mock
    from rsna_ich.learn import bodies
    with mock.patch.object(bodies, 'create_timm_model', side_effect=OSError("no route")), pytest.raises(ModelError, match='pass pretrained=False'):
        bodies.build_model('resnet18', 3, True)
