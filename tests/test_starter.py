"The starter weights: their making in small, and, where the real slices are, what they say of those"
import json, re, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from skimage.io import imsave
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.core.messages import RESEARCH_ONLY
from rsna_ich.dicom.hounsfield import window_hu
from rsna_ich.data.label_files import write_labels
from rsna_ich.learn.saving import load_model, model_folder, patient_hash
from rsna_ich.answer.inference import predict
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.phantom.files import write_phantom
from rsna_ich.starter.training import starter_data
from rsna_ich.starter.making import train_starter

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A folder like that of the real slices, with phantoms in it"
    root = tmp_path_factory.mktemp('data')
    rsna = write_phantom(root/'rsna', 4, 128, seed=5, n_slices=24, prevalence=dict.fromkeys(LABELS[1:], .1))
    write_labels(rsna, root/'rsna'/'labels.csv')
    rows = []
    for source,kinds in dict(rsna_png=((), ('subdural',)), ct_ich=(('epidural',), ('subdural',)), phe_sich=((), ('intraparenchymal',))).items():
        (root/'slices'/source).mkdir(parents=True)
        for i,kind in enumerate(kinds*2):
            ph = phantom_study((9, len(rows)), 128, 24, subtypes=kind)
            for z,(hu,y) in enumerate(zip(ph.hu, ph.labels)):
                if source == 'ct_ich' and not y[0]: continue
                name = f'{source}/{i}_{z:02}.png'
                imsave(root/'slices'/name, np.rint(window_hu(hu, 'brain')*255).astype(np.uint8), check_contrast=False)
                known = [v if source != 'phe_sich' or l in ('any', 'intraparenchymal') else None for l,v in zip(LABELS, y)]
                rows.append(dict(file=name, source=source, patient=None if source == 'rsna_png' else f'{source}_{i}', **dict(zip(LABELS, known))))
    pd.DataFrame(rows).to_csv(root/'slices'/'labels.csv', index=False)
    return root

@pytest.fixture(scope='module')
def made(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    options = dict(n_folds=2, studies=2, arch='test_resnet', pretrained=False, epochs=1, draws=64, size=64)
    return out, options, train_starter(data, out, **options)

def test_its_figures(made):
    _,_,figures = made
    assert set(figures) == {f'without/{o}' for o in ('rsna', 'rsna_png', 'ct_ich', 'phe_sich')} | {f'with/{o}' for o in ('rsna', 'ct_ich', 'phe_sich')} | {'imagenet/rsna', 'phantom/rsna'}
    assert figures['with/ct_ich']['auc']['any'] is None # all of them have a haemorrhage
    assert figures['with/phe_sich']['auc']['epidural'] is None # nothing is known of it
    low,high = figures['with/rsna']['intervals']['auc']['any']
    assert low <= figures['with/rsna']['auc']['any'] <= high

def test_its_card_and_weights(made, data):
    out,_,figures = made
    card = (out/'starter'/'README.md').read_text()
    for text in (RESEARCH_ONLY, 'not for commercial use', f"{figures['with/rsna']['auc']['any']:.3f}", 'missed most'): assert text.lower() in card.lower()
    learn = load_model(out/'starter')
    assert learn.calibration['data']['part'] == 'RSNA slices, out of fold'
    preds = predict(data/'rsna'/'dicom', out/'starter')
    assert preds.error.isna().all() and preds[list(LABELS)].notna().all(axis=None)

def test_folds_keep_patients_apart(made):
    out,_,_ = made
    for k in range(2):
        held,model = pd.read_parquet(out/f'with-{k}'/'held.parquet'),load_model(out/f'with-{k}')
        seen = set(model.data['train']['patient_hashes'])
        assert len(held) and not any(patient_hash(o) in seen for o in held.patient.unique())

def test_it_goes_on_where_it_stopped(made, data):
    out,options,figures = made
    (out/'with-1'/'held.parquet').unlink()
    kept = {o:o.stat().st_mtime_ns for o in out.glob('*/held.parquet')}
    again = train_starter(data, out, **options)
    with pytest.raises(DataError, match='other settings'): train_starter(data, out, **options | dict(seed=1))
    assert {o:o.stat().st_mtime_ns for o in kept} == kept
    assert again['with/rsna']['weighted_log_loss'] == pytest.approx(figures['with/rsna']['weighted_log_loss'], abs=1e-9) # seeded

def test_a_folder_without_the_slices(tmp_path):
    with pytest.raises(DataError, match='rsna/dicom'): starter_data(tmp_path, tmp_path/'out')

def test_the_weights_that_ship():
    folder = model_folder('starter')
    assert sum(o.stat().st_size for o in folder.iterdir()) <= 20e6
    card = (folder/'README.md').read_text(encoding='utf-8')
    for text in (RESEARCH_ONLY, 'not for commercial use', '10.1148/ryai.2020190211', '10.13026/4nae-zg36', 'Ma et al. 2023'): assert text.lower() in card.lower()
    cfg = json.loads((folder/'config.json').read_text())
    assert {k.split('/')[0] for k in cfg['metrics']} == {'without', 'with', 'imagenet', 'phantom'}
    assert f"{cfg['metrics']['with/rsna']['auc']['any']:.3f}" in card
    assert not re.search(r'ID_[0-9a-f]{6}|phe_\d|ct_ich_\d', (folder/'config.json').read_text() + card) # no patient

def test_it_answers_when_no_model_is_named(tmp_path):
    write_phantom(tmp_path, 2, 128, seed=3, n_slices=24)
    preds = predict(tmp_path/'dicom')
    assert preds[list(LABELS)].notna().all(axis=None)
    res = subprocess.run([sys.executable, '-c', 'from rsna_ich.cli import main; main()', 'predict', str(tmp_path/'dicom'), '--out', str(tmp_path/'p.csv')], capture_output=True, text=True, check=True)
    assert 'starter weights' in res.stderr and 'not for commercial use' in res.stderr
    assert np.allclose(pd.read_csv(tmp_path/'p.csv')['any'], preds['any'], atol=1e-5)

def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'starter').mkdir()
    assert model_folder('starter') != Path('starter') # no model in it
    (tmp_path/'starter'/'config.json').touch()
    assert model_folder('starter') == Path('starter')
