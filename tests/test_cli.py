"The command line as a user meets it: one line and exit code 1 for a mistake, nothing half written"
import json, os, subprocess, sys
import numpy as np, pandas as pd, pytest
from typer.testing import CliRunner
from rsna_ich.core.labels import LABELS
from rsna_ich.cli import app, main

def run(*args, code=0, cwd=None):
    "Run the command in a process of its own; stdout and stderr"
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', 'from rsna_ich.cli import main; main()', *map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert r.returncode == code, r.stderr
    return r.stdout, r.stderr

@pytest.fixture(scope='module')
def session(tmp_path_factory):
    "phantom, scan and train, through the shell"
    root = tmp_path_factory.mktemp('cli')
    run('phantom', root/'ph', '--studies', 5, '--size', 64, '--seed', 7)
    run('scan', root/'ph'/'dicom', '--out', root/'headers.parquet')
    run('train', root/'headers.parquet', '--labels', root/'ph'/'labels.csv', '--out', root/'model', '--arch', 'mobilenetv3_small_050', '--no-pretrained', '--size', 32,
        '--no-crop', '--epochs', 1, '--lr', .003, '--folds', 3, '--windows', 'brain 200,80')
    return root

def test_predict_evaluate_submit(session, tmp_path):
    out,err = run('predict', session/'ph'/'dicom', '--model', session/'model', '--out', tmp_path/'p.csv')
    df = pd.read_csv(tmp_path/'p.csv')
    assert list(df.columns[:7]) == ['sop', *LABELS] and df.error.isna().all() and 'not for diagnosis' in err
    sample = pd.read_csv(session/'ph'/'labels.csv')[::-1]
    sample.to_csv(tmp_path/'sample.csv', index=False)
    run('submit', tmp_path/'p.csv', '--sample', tmp_path/'sample.csv', '--out', tmp_path/'s.csv')
    assert pd.read_csv(tmp_path/'s.csv').ID.tolist() == sample.ID.tolist()
    run('evaluate', session/'model', session/'headers.parquet', '--labels', session/'ph'/'labels.csv', '--out', tmp_path/'e')
    assert sorted(o.name for o in (tmp_path/'e').iterdir()) == ['metrics.json', 'predictions.csv', 'report.html']
    assert json.loads((tmp_path/'e'/'metrics.json').read_text())['n_training_patients'] == 4 and 'flatter it' in (tmp_path/'e'/'report.html').read_text()

@pytest.fixture(scope='module')
def two(session, tmp_path_factory):
    "A folder of two models that differ"
    from rsna_ich.learn.saving import load_model
    root = tmp_path_factory.mktemp('two')
    for i in range(2):
        learn = load_model(session/'model')
        for o in learn.model[1].parameters(): o.data.mul_(1+i)
        learn.save_model(root/f'{i}')
    return root

def test_submit_in_one_go(session, two, tmp_path):
    "Two models, views, files in a folder that lacks one image: what predict and submit say one after the other"
    from rsna_ich.answer.inference import predict
    from rsna_ich.data.submission import load_predictions, write_submission
    sample,folder = pd.read_csv(session/'ph'/'labels.csv').sample(frac=1, random_state=3),tmp_path/'files'
    sample.to_csv(tmp_path/'sample.csv', index=False)
    folder.mkdir()
    for o in sorted((session/'ph'/'dicom').iterdir()): (folder/o.name).symlink_to(o)
    lost = sorted(folder.iterdir())[7]
    lost.unlink()
    args = ['submit', folder, '--model', two, '--sample', tmp_path/'sample.csv', '--out', tmp_path/'one'/'s.csv']
    assert f'6 ids of sample.csv have no prediction: {lost.stem}' in run(*args, code=1)[1] and not (tmp_path/'one').exists()
    assert f'1 images have no prediction and were given the mean: {lost.stem}' in run(*args, '--fill')[1]
    preds,kept = predict(folder, two, tta=True),load_predictions(tmp_path/'one'/'predictions.csv')
    np.testing.assert_allclose(kept[list(LABELS)], preds[list(LABELS)], atol=2e-6)
    assert np.abs(predict(folder, two/'0', tta=True)['any'] - preds['any']).max() > 1e-4
    write_submission(preds, tmp_path/'sample.csv', tmp_path/'two.csv', fill=True)
    a,b = (pd.read_csv(o) for o in (tmp_path/'one'/'s.csv', tmp_path/'two.csv'))
    assert a.ID.tolist() == b.ID.tolist() == sample.ID.tolist()
    np.testing.assert_allclose(a.Label, b.Label, atol=2e-6)

def test_calibrate_on_new_patients(session, two, tmp_path):
    run('phantom', tmp_path/'ph', '--studies', 2, '--size', 64, '--seed', 8)
    run('scan', tmp_path/'ph'/'dicom', '--out', tmp_path/'h.parquet')
    assert 'on the 2 patients of the fit' in run('calibrate', two, tmp_path/'h.parquet', '--labels', tmp_path/'ph'/'labels.csv')[1]
    assert 'calibrated already' in run('calibrate', two, tmp_path/'h.parquet', '--labels', tmp_path/'ph'/'labels.csv', code=1)[1]
    (two/'ensemble.json').unlink()

def test_split_and_train_on_it(session, tmp_path):
    labels = ('--labels', session/'ph'/'labels.csv')
    out,err = run('split', session/'headers.parquet', *labels, '--folds', 3, '--seed', 2, '--out', tmp_path/'f.parquet')
    assert all(l in out for l in (*LABELS, 'fold 2', 'points', 'relative', 'patients in two folds: 0', 'not known')) and 'fingerprint' in err
    again,_ = run('split', session/'headers.parquet', *labels, '--folds', 3, '--seed', 2, '--out', tmp_path/'g.parquet')
    assert out == again and (tmp_path/'f.parquet').read_bytes() == (tmp_path/'g.parquet').read_bytes()
    small = ('--arch', 'mobilenetv3_small_050', '--no-pretrained', '--size', 32, '--no-crop', '--epochs', 1, '--lr', .003, '--bs', 16)
    run('train', session/'headers.parquet', *labels, '--out', tmp_path/'m', *small, '--split', tmp_path/'f.parquet', '--fold', 1)
    folds,truth = pd.read_parquet(tmp_path/'f.parquet').set_index('sop').fold,pd.read_parquet(session/'headers.parquet').set_index('sop')
    trained = json.loads((tmp_path/'m'/'config.json').read_text())['data']
    assert trained['valid']['slices'] == (folds == 1).sum() and trained['train']['slices'] == (folds != 1).sum()
    assert trained['valid']['patients'] == truth.patient[folds.index[folds == 1]].nunique()

def test_files_like_a_table(tmp_path):
    from rsna_ich.phantom.files import dicom_header
    pd.DataFrame([dicom_header(np.zeros((1,1)), (12,0,-1024), .5, f'ID_{i}', {}) for i in range(3)]).to_csv(tmp_path/'t.csv', index=False)
    _,err = run('phantom', tmp_path/'x', '--headers-like', tmp_path/'t.csv', '--limit', 2, '--sparse', '--size', 64)
    assert '2 slices of 1 studies' in err
    _,err = run('scan', tmp_path/'x', '--out', tmp_path/'h.parquet')
    assert "2 files, 1 patients" in err and "can't be used" not in err

def test_a_scan_with_pixels(session, tmp_path):
    from rsna_ich.dicom.header_files import load_headers
    from rsna_ich.data.stats import pixel_stats
    run('scan', session/'ph'/'dicom', '--out', tmp_path/'h.parquet', '--pixels')
    pd.testing.assert_frame_equal(load_headers(tmp_path/'h.parquet'), pixel_stats(load_headers(session/'headers.parquet')))

def test_one_file_is_answered_on_the_screen(session, tmp_path):
    f = sorted((session/'ph'/'dicom').iterdir())[0]
    out,_ = run('predict', f, '--model', session/'model', '--out', tmp_path/'p.csv')
    assert all(l in out for l in LABELS) and 'not a medical device' in out

def errors(session, tmp_path):
    "Command, and what its one line must say"
    ph,model,headers = session/'ph',session/'model',session/'headers.parquet'
    (tmp_path/'empty').mkdir()
    (tmp_path/'text.dcm').write_text('hello '*99)
    (tmp_path/'other.csv').write_text('ID,any\nID_x,1')
    (tmp_path/'sample.csv').write_text('ID,Label\nID_x_any,.5')
    preds = pd.DataFrame(dict(sop=['ID_y'], **dict.fromkeys(LABELS, .5)))
    preds.to_csv(tmp_path/'p.csv', index=False)
    out = ('--out', tmp_path/'out')
    return [(('scan', tmp_path/'empty', *out), 'holds no files'), (('scan', tmp_path/'none', *out), 'none: no such file or folder'),
        (('train', headers, '--labels', tmp_path/'none.csv', *out), 'none.csv: no such label file'), (('train', headers, '--labels', tmp_path/'other.csv', *out), 'no file has a label'),
        (('train', tmp_path/'text.dcm', '--labels', ph/'labels.csv', *out), 'none of the 1 files can be used; the first: text.dcm: '), (('train', headers, '--labels', ph/'labels.csv', '--arch', 'resnet81', *out), 'did you mean'),
        (('train', headers, '--labels', ph/'labels.csv', '--windows', 'brian', *out), "no CT window is called 'brian'"), (('train', headers, '--labels', ph/'labels.csv', '--epochs', 0, *out), '--epochs must be 1 or more'),
        (('train', headers, '--labels', ph/'labels.csv', '--folds', 99, *out), "5 patients can't make 99 folds"), (('train', headers, '--labels', ph/'labels.csv', '--fold', 5, *out), 'fold'),
        (('predict', tmp_path/'none', '--model', model, *out), 'no such file or folder'), (('predict', ph/'dicom', '--model', tmp_path/'empty', *out), 'no saved model here'),
        (('predict', tmp_path/'empty', '--model', model, *out), 'holds no files'), (('evaluate', model, headers, '--labels', tmp_path/'other.csv', *out), 'no file has a label'),
        (('submit', tmp_path/'p.csv', '--sample', tmp_path/'sample.csv', *out), 'have no prediction: ID_x_any'), (('submit', tmp_path/'other.csv', '--sample', tmp_path/'sample.csv', *out), 'not a prediction table'),
        (('submit', tmp_path/'p.csv', '--sample', tmp_path/'none.csv', *out), 'none.csv: no such'),
        (('calibrate', model, headers, '--labels', ph/'labels.csv'), 'the models have learnt from 4 of these 5 patients'), (('calibrate', model, headers, '--labels', tmp_path/'other.csv'), 'no file has a label'),
        (('submit', ph/'dicom', '--sample', ph/'labels.csv', *out), 'name a model with --model'), (('submit', tmp_path/'p.csv', '--sample', ph/'labels.csv', '--model', model, *out), '--model has no meaning'),
        (('phantom', ph, '--studies', 1), ''), (('phantom', tmp_path/'x', '--size', 5), ''),
        (('phantom', tmp_path/'out', '--headers-like', tmp_path/'other.csv'), 'other.csv: no column SOPInstanceUID'), (('phantom', tmp_path/'out', '--headers-like', tmp_path/'none.csv'), 'none.csv: no such table'),
        (('phantom', tmp_path/'out', '--headers-like', tmp_path/'other.csv', '--studies', 10), '--studies has no meaning with --headers-like'),
        (('phantom', tmp_path/'out', '--headers-like', tmp_path/'other.csv', '--seed', 0), '--seed has no meaning'), (('phantom', tmp_path/'out', '--sparse'), '--sparse needs --headers-like'),
        (('phantom', tmp_path/'out', '--limit', 5), '--limit needs --headers-like'), (('phantom', tmp_path/'out', '--headers-like', tmp_path/'other.csv', '--limit', 0), 'limit is 1 or more'),
        (('demo', '--out', ph), 'not empty'), (('demo', '--studies', 2, *out), '3 or more'), (('scan', ph/'dicom', '--out', ph), ''),
        (('split', headers, '--labels', ph/'labels.csv', '--folds', 9, *out), "5 patients can't make 9 folds"), (('split', headers, '--labels', tmp_path/'other.csv', *out), 'no file has a label'),
        (('train', headers, '--labels', ph/'labels.csv', '--split', tmp_path/'none.parquet', *out), 'none.parquet: no such file of folds'),
        (('train', headers, '--labels', ph/'labels.csv', '--split', headers, *out), 'headers.parquet: no folds in it'),
        (('train', headers, '--labels', ph/'labels.csv', '--split', headers, '--folds', 5, *out), '--folds has no meaning with --split'),
        (('train', headers, '--labels', ph/'labels.csv', '--folds', 1, *out), '2 or more'), (('train', headers, '--labels', ph/'labels.csv', '--lr', -1, *out), '--lr')]

def test_a_mistake_is_one_line_and_leaves_nothing(session, tmp_path, capsys, monkeypatch):
    for args,says in errors(session, tmp_path):
        monkeypatch.setattr(sys, 'argv', ['rsna_ich', *map(str, args)])
        with pytest.raises(SystemExit) as e: main()
        text = str(e.value.code)
        assert text.startswith('error: ') and '\n' not in text and says in text, (args, text)
        assert not (tmp_path/'out').exists(), args

def test_through_the_shell_it_is_exit_code_1_and_no_traceback(tmp_path):
    _,err = run('scan', tmp_path/'none', code=1)
    assert err.strip() == 'error: none: no such file or folder'

def test_only_bad_files_still_leave_their_reasons(session, tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'text.dcm').write_text('hello '*99)
    _,err = run('predict', tmp_path/'in', '--model', session/'model', '--out', tmp_path/'p.csv', code=1)
    assert 'not a DICOM file' in err and 'Traceback' not in err
    assert 'not a DICOM file' in pd.read_csv(tmp_path/'p.csv').error[0]

def test_every_command_has_help():
    for c in ('demo', 'phantom', 'scan', 'prepare', 'split', 'train', 'evaluate', 'predict', 'calibrate', 'submit'):
        r = CliRunner().invoke(app, [c, '--help'], env=dict(COLUMNS='200'))
        assert r.exit_code == 0 and '--help' in r.output
    assert 'Kaggle' in CliRunner().invoke(app, ['train', '--help'], env=dict(COLUMNS='200')).output

@pytest.mark.parametrize('code', ['import rsna_ich', "import sys; sys.argv = ['rsna_ich', '--help']; from rsna_ich.cli import main\ntry: main()\nexcept SystemExit: pass"])
def test_starting_is_light(code):
    "Neither the import nor --help loads what takes seconds, starts a thread, or sets up logging"
    check = '\nimport sys, threading, logging\nheavy = [m for m in ("torch", "fastai", "pandas", "pydicom", "timm", "kornia", "matplotlib", "sklearn") if m in sys.modules]\nassert not heavy, heavy\nassert threading.active_count() == 1 and not logging.getLogger().handlers'
    subprocess.run([sys.executable, '-c', code + check], check=True, capture_output=True, env=os.environ)

def test_folds_with_neighbours(session, tmp_path):
    "Two models that answer together"
    args = ['train', session/'headers.parquet', '--labels', session/'ph'/'labels.csv', '--out', tmp_path/'all', '--arch', 'mobilenetv3_small_050', '--no-pretrained', '--size', 32,
        '--epochs', 1, '--lr', .003, '--bs', 16, '--folds', 2, '--all-folds', '--neighbours', 1]
    assert 'out-of-fold: weighted log loss' in run(*args)[1]
    assert 'epoch' not in run(*args)[1] # nothing is left to do
    context = [*args, '--context', '--out', tmp_path/'context']
    assert 'too few to learn context from' in run(*context, code=1)[1]
    run('predict', session/'ph'/'dicom', '--model', tmp_path/'all', '--out', tmp_path/'p.csv')
    assert pd.read_csv(tmp_path/'p.csv').error.isna().all()
