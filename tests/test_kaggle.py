"The competition's archive as it is downloaded: training set, test set and CSV files side by side in one zip, and nothing unpacked"
import zipfile
import numpy as np, pandas as pd, pytest
from typer.testing import CliRunner
from rsna_ich.core.errors import DataError, LabelError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.header_files import load_headers
from rsna_ich.dicom.folders import in_folder, top_folders
from rsna_ich.dicom.scanning import header_folders, header_table, scan, scan_to
from rsna_ich.learn.saving import load_model
from rsna_ich.answer.inference import predict
from rsna_ich.phantom.files import write_phantom
from rsna_ich.cli import app

def run(*args, code=0):
    "Run the command in this process; what a person would read on stdout and stderr"
    res = CliRunner().invoke(app, [str(o) for o in args])
    assert isinstance(res.exception, DataError | LabelError) if code else res.exit_code == 0, (args, res.output, res.exception)
    return res.stdout, f'{res.stderr}{res.exception or ""}'

STAGES = dict(stage_2_train=(3, 1), stage_2_test=(2, 2)) # studies and seed

@pytest.fixture(scope='module', params=['', 'rsna-intracranial-hemorrhage-detection/'], ids=['bare', 'in a folder'])
def kaggle(request, tmp_path_factory):
    "The zip, the loose CSV files beside it, and the number of files by stage"
    root,top,counts = tmp_path_factory.mktemp('kaggle'),request.param,{}
    with zipfile.ZipFile(root/'rsna.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        for stage,(studies,seed) in STAGES.items():
            write_phantom(root/stage, studies=studies, size=64, seed=seed)
            files = sorted((root/stage/'dicom').iterdir())
            counts[top + stage] = len(files)
            for o in files: z.write(o, f'{top}{stage}/{o.name}')
        pd.read_csv(root/'stage_2_test'/'labels.csv').assign(Label=.5).sample(frac=1, random_state=1).to_csv(root/'stage_2_sample_submission.csv', index=False)
        (root/'stage_2_train.csv').write_bytes((root/'stage_2_train'/'labels.csv').read_bytes())
        for o in ('stage_2_train.csv', 'stage_2_sample_submission.csv'): z.write(root/o, top + o)
    return root, top, counts

@pytest.fixture(scope='module')
def model(kaggle):
    "Trained from the archive by the command line"
    root,top,_ = kaggle
    run('train', root/'rsna.zip'/f'{top}stage_2_train', '--labels', root/'stage_2_train.csv', '--out', root/'model', '--arch', 'mobilenetv3_small_050', '--no-pretrained',
        '--size', 32, '--no-crop', '--epochs', 1, '--lr', .003, '--folds', 3)
    return root/'model'

def test_scan_tells_the_folders(kaggle, tmp_path):
    root,top,counts = kaggle
    _,err = run('scan', root/'rsna.zip', '--out', tmp_path/'all.parquet')
    folders = header_folders(tmp_path/'all.parquet')
    assert folders == counts | {top.rstrip('/'): 2} and all(f'{k}: {v}' in err for k,v in counts.items())
    whole = load_headers(tmp_path/'all.parquet')
    test = f'{top}stage_2_test'
    for args in ((root/'rsna.zip', '--under', test), (root/'rsna.zip'/test,)):
        _,err = run('scan', *args, '--out', tmp_path/'test.parquet')
        assert 'by folder' not in err
        pd.testing.assert_frame_equal(load_headers(tmp_path/'test.parquet'), in_folder(whole, test))

def test_submit_from_the_archive(kaggle, model, tmp_path):
    "With everything in it, from a part of it, from a table, and in two steps: always the same submission, and what else was there is told"
    root,top,counts = kaggle
    sample,test = root/'stage_2_sample_submission.csv',f'{top}stage_2_test'
    run('scan', root/'rsna.zip', '--out', tmp_path/'all.parquet')
    ways = dict(whole=(root/'rsna.zip',), part=(root/'rsna.zip'/test,), under=(root/'rsna.zip', '--under', test), table=(tmp_path/'all.parquet',), rows=(tmp_path/'all.parquet', '--under', test))
    for name,args in ways.items():
        _,err = run('submit', *args, '--model', model, '--sample', sample, '--out', tmp_path/name/'s.csv')
        others = f"left alone are {counts[top + 'stage_2_train']} others ({top}stage_2_train: {counts[top + 'stage_2_train']})"
        assert (others in err) == (name in ('whole', 'table')), (name, err)
        assert len(pd.read_csv(tmp_path/name/'predictions.csv')) == counts[test]
    run('predict', root/'rsna.zip', '--model', model, '--tta', '--out', tmp_path/'p.csv')
    for more in ((), ('--fill',)):
        _,err = run('submit', tmp_path/'p.csv', '--sample', sample, '--out', tmp_path/'steps'/'s.csv', *more)
        assert f"{counts[top + 'stage_2_train']} predictions are not asked for by {sample.name} and left out: ID_" in err and 'given the mean' not in err
    want = pd.read_csv(sample).ID.tolist()
    first = pd.read_csv(tmp_path/'whole'/'s.csv')
    assert first.ID.tolist() == want
    for name in (*ways, 'steps'):
        got = pd.read_csv(tmp_path/name/'s.csv')
        assert got.ID.tolist() == want and np.allclose(got.Label, first.Label, atol=2e-6), name

def test_the_training_set_is_not_the_test_set(kaggle, model, tmp_path):
    root,top,_ = kaggle
    args = ['submit', root/'rsna.zip', '--under', f'{top}stage_2_train', '--model', model, '--sample', root/'stage_2_sample_submission.csv', '--out', tmp_path/'s'/'s.csv']
    for more in ((), ('--fill',)): assert 'have no prediction' in run(*args, *more, code=1)[1]
    assert not (tmp_path/'s').exists()

def test_every_command_takes_a_part_of_the_archive(kaggle, model, tmp_path):
    root,top,counts = kaggle
    train,labels = f'{top}stage_2_train',('--labels', root/'stage_2_train.csv')
    n = counts[train]
    for i,source in enumerate([(root/'rsna.zip'/train,), (root/'rsna.zip', '--under', train)]):
        out = tmp_path/str(i)
        assert f'{n} slices' in run('prepare', *source, '--size', 32, '--out', out/'store')[1]
        assert f'{n} labelled slices' in run('split', *source, *labels, '--folds', 3, '--out', out/'folds.parquet')[1]
        assert f'{n} slices' in run('evaluate', model, *source, *labels, '--no-tta', '--out', out/'evaluation')[1]
        assert f'{n} files' in run('predict', *source, '--model', model, '--out', out/'p.csv')[1]
        run('eda', *source, *labels, '--images', 0, '--out', out/'eda')
        assert (out/'eda'/'report.html').is_file()
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path/str(i)/'p.csv') for i in (0, 1)))
    assert f'{n} labelled slices' in run('split', tmp_path/'0'/'store', *labels, '--under', train, '--folds', 3, '--out', tmp_path/'f.parquet')[1]

def test_python_takes_a_part_as_well(kaggle, model):
    root,top,counts = kaggle
    learn,test = load_model(model),f'{top}stage_2_test'
    table = learn.predict(root/'rsna.zip'/test)
    assert len(table) == counts[test] == len(predict(root/'rsna.zip'/test, learn))
    one = learn.predict(root/'rsna.zip'/table.path[0])
    assert np.allclose(list(one.values()), table.loc[0, list(LABELS)].astype(float), atol=1e-5)

@pytest.mark.parametrize('under,says', [('stage_3', "no file or folder 'stage_3' in it; there are"), ('stage_2_tes', 'no file or folder'), ('../x', 'leads out of')])
def test_a_folder_that_is_not_there(kaggle, tmp_path, under, says):
    root = kaggle[0]
    with pytest.raises(DataError, match=says): scan(root/'rsna.zip', under=under)
    with pytest.raises(DataError, match=says): scan(root, under=under)
    with pytest.raises(DataError, match=says): in_folder(scan(root/'stage_2_test'), under)
    with pytest.raises(DataError, match=says): scan_to(tmp_path/'h.parquet', root/'rsna.zip', under=under)
    _,err = run('scan', root/'rsna.zip'/under, '--out', tmp_path/'h.parquet', code=1)
    assert ('no such file' if '..' in under else says) in err and not list(tmp_path.iterdir())

def test_a_part_of_a_folder(kaggle):
    root,_,counts = kaggle
    n = len(list((root/'stage_2_test'/'dicom').iterdir()))
    for under in ('stage_2_test/dicom', './stage_2_test/dicom/', 'stage_2_test\\dicom'): assert len(scan(root, under=under)) == n
    assert scan(root, under='stage_2_train.csv').path.tolist() == ['stage_2_train.csv']
    with pytest.raises(DataError, match='--root is for a header table'): header_table(root, root='/elsewhere')

def test_folders_are_counted_where_the_paths_part():
    assert top_folders(['a/b/1', 'a/b/2', 'a/c/d/3']) == {'a/b': 2, 'a/c': 1}
    assert top_folders(['a/b/1', '2']) == {'a': 1, '': 1} and top_folders(['x/1', 'x/2']) == {'x': 2} and top_folders([]) == {}
    assert top_folders(['a/1', 'a/b/2', 'ab/3']) == {'a': 2, 'ab': 1}
