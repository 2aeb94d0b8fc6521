"Recipes through the command line: they set what isn't given, and nothing else"
import json
from inspect import signature
from unittest import mock
import numpy as np, pandas as pd, pytest
from typer.testing import CliRunner
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.header_files import save_headers
from rsna_ich.dicom.scanning import scan
from rsna_ich.learn.bodies import check_arch
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.ensembles import load_detectors
from rsna_ich.learn.recipes import RECIPES, epoch_sizes, get_recipe, paper_run, recipe_table
from rsna_ich.answer.inference import predict
from rsna_ich.cli import app, train

@pytest.fixture(scope='module')
def headers(heads, tmp_path_factory):
    out = tmp_path_factory.mktemp('r')/'headers.parquet'
    save_headers(scan(heads/'dicom'), out)
    return out

class Enough(Exception): "Training was asked for"

def asked(heads, headers, *args, by='rsna_ich.learn.options.train_model'):
    "What the command hands to the function that trains"
    with mock.patch(by, side_effect=Enough('asked')) as f:
        res = CliRunner().invoke(app, ['train', str(headers), '--labels', str(heads/'labels.csv'), *map(str, args)])
    assert isinstance(res.exception, Enough), (res.exception, res.output)
    return f.call_args

def test_recipes_are_options_of_the_command():
    known = signature(train).parameters
    for name,options in RECIPES.items():
        assert set(options) <= set(known) - {'source', 'labels', 'out', 'recipe'}, name
        for arch in options['arch'] if isinstance(options['arch'], tuple) else [options['arch']]: check_arch(arch)
    assert all(c in recipe_table() for c in RECIPES) and (recipe_table().loc['ema'] == ['', '0.999', '0.999']).all()

def test_what_is_given_wins(heads, headers):
    plain = asked(heads, headers).kwargs
    rapid = asked(heads, headers, '--recipe', 'rapid').kwargs
    assert {k for k in plain if k != 'headers' and plain[k] != rapid[k]} == {'sizes', 'negatives'} and rapid['sizes'] == [128, 256] and rapid['negatives'] == 1
    mine = asked(heads, headers, '--recipe', 'rapid', '--arch', 'resnet34', '--size', 192, '--negatives', 3, '--epochs', 4).kwargs
    assert {k for k in rapid if k != 'headers' and mine[k] != rapid[k]} == {'arch', 'size', 'sizes', 'negatives'} and mine['sizes'] == [128, 192]
    assert asked(heads, headers, '--recipe', 'rapid', '--size', 256, '--sizes', '').kwargs['sizes'] is None # the default, but given

def test_strong_and_ensemble(heads, headers):
    strong = asked(heads, headers, '--recipe', 'strong').kwargs
    assert strong['windows'] == ['brain', 'subdural_200', 'soft_380'] and strong['jitter'] is True and strong['ema'] == .999 and strong['neighbours'] == 1
    call = asked(heads, headers, '--recipe', 'ensemble', '--folds', 3, by='rsna_ich.learn.options.train_bodies')
    assert call.args[2] == list(RECIPES['ensemble']['arch']) and call.kwargs['context'] is True and call.kwargs['n_folds'] == 3
    one = asked(heads, headers, '--recipe', 'ensemble', '--arch', 'resnet18', '--no-context', by='rsna_ich.learn.options.train_folds').kwargs
    assert one['arch'] == 'resnet18' and one['context'] is False

@pytest.mark.parametrize('args,says', [(('--recipe', 'quick'), 'choose from rapid, strong, ensemble'), (('--arch', 'resnet18 resnet34'), 'with --all-folds only'), (('--arch', ''), 'with --all-folds only'),
    (('--ema', 1), '--ema must be above 0 and below 1'), (('--sizes', 'small'), 'whole numbers of pixels'), (('--sizes', '0 64'), '1 pixel or more')])
def test_mistakes(heads, headers, tmp_path, args, says):
    res = CliRunner().invoke(app, ['train', str(headers), '--labels', str(heads/'labels.csv'), '--out', str(tmp_path/'out'), *map(str, args)])
    assert isinstance(res.exception, DataError) and says in str(res.exception) and not (tmp_path/'out').exists()

SMALL = ('--no-pretrained', '--no-crop', '--epochs', 1, '--bs', 16, '--lr', .003, '--folds', 2)

def test_rapid_on_a_small_set(heads, headers, tmp_path):
    args = ['--recipe', 'rapid', '--arch', 'test_resnet', '--size', 32, '--sizes', 16, '--ema', .9, '--jitter', '--out', tmp_path/'m', *SMALL]
    res = CliRunner().invoke(app, ['train', str(headers), '--labels', str(heads/'labels.csv'), *map(str, args)])
    assert res.exit_code == 0, res.exception
    cfg = json.loads((tmp_path/'m'/'config.json').read_text())
    assert cfg['chain']['jitter'] == {} and cfg['chain']['size'] == 32 and cfg['negatives_kept'] < 1
    assert len(pd.read_csv(tmp_path/'m'/'training.csv')) == 1
    assert load_model(tmp_path/'m').chain.config == cfg['chain']

def test_bodies_answer_together(heads, headers, tmp_path):
    args = ['--all-folds', '--arch', 'test_resnet mobilenetv3_small_050', '--size', 32, '--out', tmp_path/'m', *SMALL]
    res = CliRunner().invoke(app, ['train', str(headers), '--labels', str(heads/'labels.csv'), *map(str, args)])
    assert res.exit_code == 0 and 'out-of-fold: weighted log loss' in res.output, res.exception
    assert [o.arch for o in load_detectors(tmp_path/'m')] == ['mobilenetv3_small_050']*2 + ['test_resnet']*2
    files = sorted((heads/'dicom').iterdir())[:5]
    each = [predict(files, m)[list(LABELS)].to_numpy(float) for m in load_detectors(tmp_path/'m')]
    whole = predict(files, tmp_path/'m')[list(LABELS)].to_numpy(float)
    assert (whole >= np.min(each, 0) - 1e-6).all() and (whole <= np.max(each, 0) + 1e-6).all()

def test_a_run_on_paper():
    rate = {b:(1000., 256) for o in RECIPES.values() for b in (o['arch'] if isinstance(o['arch'], tuple) else (o['arch'],))}
    rapid,strong,ensemble = (paper_run(n, rate, rate) for n in RECIPES)
    assert ensemble['models'] == 15 and np.isclose(ensemble['training'], 15*strong['training']) and np.isclose(ensemble['store'], strong['store'])
    assert epoch_sizes(get_recipe('strong')) == [256, 256, 256, 256, 384, 384, 384]
    twice = paper_run('strong', {k:(2000., 256) for k in rate}, rate)
    assert np.isclose(twice['training'], strong['training']/2) and twice['validation'] == strong['validation']
    assert np.isclose(paper_run('strong', {k:(1000., 512) for k in rate}, rate)['training'], strong['training']/4)
    assert rapid['context'] == 0 and rapid['total'] < strong['total'] < ensemble['total']
