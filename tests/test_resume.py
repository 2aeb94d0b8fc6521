"A training that was stopped comes to the same weights and figures as one that was not"
import json, os, signal, subprocess, sys
from contextlib import ExitStack
from functools import partialmethod
from unittest import mock
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback
from safetensors.torch import load_file, save_file
from rsna_ich.learn import learner, training
from rsna_ich.learn.saving import load_model
from rsna_ich.core.errors import DataError, ModelError
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.learn.callbacks import Checkpoint
from rsna_ich.learn.folds import train_folds

@pytest.fixture(scope='module')
def table(heads): return slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))

OPTIONS = dict(arch='test_resnet', size=32, epochs=3, lr=3e-3, n_folds=3, bs=16, crop=False, sizes=(16, 32), ema=.9, jitter=True)
build = learner.build_model
def unschooled(arch, n_in, pretrained, **kwargs): return build(arch, n_in, False, **kwargs) # frozen and freed like a pretrained body, without a network

def schooled():
    "Two frozen epochs, without a network"
    stack = ExitStack()
    stack.enter_context(mock.patch.object(learner, 'build_model', unschooled))
    stack.enter_context(mock.patch.object(learner.ICHLearner, 'fit_rapid', partialmethod(learner.ICHLearner.fit_rapid, freeze_epochs=2)))
    return stack

def train(table, out, **kwargs):
    with schooled(): return training.train_model(table, out, **OPTIONS | kwargs)

class Stop(Exception): "What a power cut is to a test"

class StopIn(Callback):
    "Stop at the first batch of an epoch of a stage"
    def __init__(self, stage, epoch, how): self.where,self.how = (stage, epoch),how
    def before_batch(self):
        if (self.stage, self.epoch) == self.where and self.training and not hasattr(self.learn, 'lr_finder'): self.how()

def stop(): raise Stop('stopped')
def kill(): os.kill(os.getpid(), signal.SIGKILL)

def stopped(table, out, stage, epoch, how=stop, call=train, **kwargs):
    "Train until a stop"
    made = training.ich_learner
    with mock.patch.object(training, 'ich_learner', lambda *a, **k: made(*a, cbs=[StopIn(stage, epoch, how)], **k)), pytest.raises(Stop): call(table, out, **kwargs)

def config(out): return json.loads((out/'config.json').read_text())

def same(a, b):
    "The folders of two models hold the same weights, figures, calibration and log"
    one,two = config(a),config(b)
    for k in ('weights_sha256', 'metrics', 'temperature', 'thresholds'): assert one[k] == two[k], k
    logs = [pd.read_csv(o/'training.csv').drop(columns=['seconds', 'images_per_second']) for o in (a, b)]
    pd.testing.assert_frame_equal(*logs)
    assert not any(o.name.startswith('checkpoint') for o in b.iterdir()) and (b/'training.png').stat().st_size > 5_000

@pytest.fixture(scope='module')
def whole(table, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'model'
    train(table, out)
    return out

def test_the_log_of_a_training(whole):
    log = pd.read_csv(whole/'training.csv')
    assert log.stage.tolist() == ['frozen']*2 + ['free']*3 and log.epoch.tolist() == [1, 2, 3, 4, 5]
    assert {'train_loss', 'valid_loss', 'weighted_log_loss', 'auc_any', 'images_per_second', 'seconds'} <= set(log) and (log.lr_end <= log.lr_highest).all()
    assert np.isclose(log.lr_highest[:2].max(), 3e-3, rtol=.01) and log.lr_highest.max() <= 3e-3
    last = config(whole)['metrics']['validation']['weighted_log_loss']
    assert np.isclose(log.weighted_log_loss.iloc[-1], last, atol=1e-5) # the average is what was validated and what was kept

@pytest.mark.parametrize('stage,epoch', [('frozen', 0), ('frozen', 1), ('free', 0), ('free', 2)])
def test_stopped_and_started_again(table, whole, tmp_path, stage, epoch):
    stopped(table, tmp_path/'model', stage, epoch)
    assert (tmp_path/'model'/'checkpoint.safetensors').exists() == ((stage, epoch) != ('frozen', 0)) and not (tmp_path/'model'/'config.json').exists()
    train(table, tmp_path/'model')
    same(whole, tmp_path/'model')

def test_the_learning_rate_that_was_found_is_kept(table, tmp_path):
    kwargs = dict(lr=None, ema=None, pretrained=False, epochs=2, sizes=None)
    train(table, tmp_path/'a', **kwargs)
    stopped(table, tmp_path/'b', 'free', 1, **kwargs)
    with mock.patch.object(learner.ICHLearner, 'find_lr', side_effect=AssertionError): train(table, tmp_path/'b', **kwargs)
    same(tmp_path/'a', tmp_path/'b')

def test_stopped_more_than_once_and_before_the_model_was_saved(table, whole, tmp_path):
    out = tmp_path/'model'
    for epoch in (1, 2): stopped(table, out, 'free', epoch)
    with mock.patch.object(learner.ICHLearner, 'get_preds', side_effect=Stop('stopped')), pytest.raises(Stop): train(table, out)
    assert len(pd.read_csv(out/'training.csv')) == 5
    train(table, out)
    same(whole, out)

def test_neighbours_out_of_a_store(heads, tmp_path):
    from rsna_ich.data.store import prepare
    store = prepare(scan(heads/'dicom'), tmp_path/'store', size=32, crop=False)
    df = slice_table(store.index, read_labels(heads/'labels.csv'))
    kwargs = dict(store=store, neighbours=1, negatives=2., epochs=2)
    train(df, tmp_path/'a', **kwargs)
    stopped(df, tmp_path/'b', 'free', 1, **kwargs)
    train(df, tmp_path/'b', **kwargs)
    same(tmp_path/'a', tmp_path/'b')
    stopped(df, tmp_path/'c', 'free', 1, **kwargs)
    with pytest.raises(DataError, match='other store;'): train(df, tmp_path/'c', **kwargs | dict(store=None))

def test_killed(table, heads, whole, tmp_path):
    "The process is killed in the middle of an epoch"
    code = f'import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\nfrom pathlib import Path\nfrom test_resume import *\n' \
        f"heads = Path({str(heads)!r})\ntable = slice_table(scan(heads/'dicom'), read_labels(heads/'labels.csv'))\nstopped(table, Path({str(tmp_path)!r})/'model', 'free', 1, kill)"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == -signal.SIGKILL, res.stderr
    assert len(pd.read_csv(tmp_path/'model'/'training.csv')) == 3
    train(table, tmp_path/'model')
    same(whole, tmp_path/'model')

def test_a_fold_goes_on_where_it_was_stopped(table, tmp_path):
    def folds(df, out, **kwargs):
        with schooled():
            return train_folds(df, out, n_folds=2, context=False, **{k:v for k,v in OPTIONS.items() if k != 'n_folds'} | dict(epochs=2) | kwargs)
    one = folds(table, tmp_path/'a')
    starts = []
    saved = Checkpoint.save
    def second(self):
        saved(self)
        starts.append((self.file.parent.name, self.epoch))
        if starts[-1] == ('fold1', 1): raise Stop('stopped')
    with mock.patch.object(Checkpoint, 'save', second), pytest.raises(Stop): folds(table, tmp_path/'b')
    with mock.patch.object(learner.ICHLearner, 'get_preds', autospec=True, side_effect=learner.ICHLearner.get_preds) as asked: two = folds(table, tmp_path/'b')
    assert one == two and asked.call_count == 1 # one fold was trained to its end, the other had been
    for f in ('fold0', 'fold1'): same(tmp_path/'a'/f, tmp_path/'b'/f)

@pytest.mark.parametrize('kwargs,says', [(dict(lr=1e-3), 'other lr;'), (dict(seed=1), 'other seed, training_slices, validation_slices;'), (dict(ema=None, epochs=5), 'other ema, epochs;')])
def test_a_checkpoint_of_another_training_is_refused(table, tmp_path, kwargs, says):
    out = tmp_path/'model'
    stopped(table, out, 'free', 1)
    before = (out/'checkpoint.safetensors').read_bytes()
    with pytest.raises(DataError, match=f'model/checkpoint.safetensors: left by a training with {says} name another folder'): train(table, out, **kwargs)
    assert (out/'checkpoint.safetensors').read_bytes() == before and not (out/'config.json').exists()

def test_other_labels_are_other_data(table, tmp_path):
    stopped(table, tmp_path/'model', 'free', 1)
    with pytest.raises(DataError, match='other training_slices'): train(table.assign(epidural=1. - table.epidural), tmp_path/'model')

@pytest.mark.parametrize('spoil', [lambda b: b[:1000], lambda b: b'', lambda b: b'{' * 5000])
def test_a_damaged_checkpoint_is_named(table, tmp_path, spoil):
    out = tmp_path/'model'
    stopped(table, out, 'free', 0)
    (out/'checkpoint.safetensors').write_bytes(spoil((out/'checkpoint.safetensors').read_bytes()))
    with pytest.raises(ModelError, match='model/checkpoint.safetensors: not a checkpoint that can be read; delete it'): train(table, out)

def test_a_checkpoint_without_what_it_needs_is_named(table, tmp_path):
    from safetensors import safe_open
    file = tmp_path/'model'/'checkpoint.safetensors'
    stopped(table, file.parent, 'free', 0)
    with safe_open(file, 'pt') as f: meta = f.metadata()
    save_file({k:v for k,v in load_file(file).items() if k.startswith('rng')}, file, meta)
    with pytest.raises(ModelError, match='does not fit this training; delete it'): train(table, file.parent)

def test_a_finished_model_is_trained_anew(table, tmp_path):
    kwargs = dict(epochs=1, sizes=None)
    train(table, tmp_path/'model', **kwargs)
    first = config(tmp_path/'model')
    train(table, tmp_path/'model', **kwargs)
    assert config(tmp_path/'model') == first and len(pd.read_csv(tmp_path/'model'/'training.csv')) == 3

@pytest.mark.parametrize('decay', [0, 1, -.5, 2])
def test_a_decay_is_a_share(table, tmp_path, decay):
    with pytest.raises(DataError, match='decay between 0 and 1'): train(table, tmp_path/'model', ema=decay)
    assert not (tmp_path/'model').exists()

def test_the_average_has_the_statistics_of_its_weights(table, tmp_path):
    "Batch statistics are averaged with the weights, so the kept network answers in eval mode as it did when it was validated"
    learn = train(table, tmp_path/'model', ema=.95)
    stats = [v for k,v in learn.model.state_dict().items() if k.endswith(('running_mean', 'running_var'))]
    assert stats and all(torch.isfinite(v).all() for v in stats)
    again = load_model(tmp_path/'model', learn.dls)
    with again.no_bar(), learn.no_bar(): torch.testing.assert_close(again.get_preds()[0], learn.get_preds()[0])
