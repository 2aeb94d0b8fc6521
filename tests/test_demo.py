"The demo at its full size, with the marks that it has to reach"
import json, resource, subprocess, sys
import pandas as pd, pytest
from rsna_ich.core.labels import LABELS

@pytest.mark.slow
def test_demo(tmp_path):
    r = subprocess.run([sys.executable, '-c', 'from rsna_ich.cli import main; main()', 'demo', '--out', str(tmp_path/'d')], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    print(r.stdout, r.stderr)
    out = tmp_path/'d'
    assert {'headers.parquet', 'model', 'predictions.csv', 'submission.csv', 'metrics.json', 'report.html'} <= {o.name for o in out.iterdir()}
    res,preds = json.loads((out/'metrics.json').read_text()),pd.read_csv(out/'predictions.csv')
    assert list(preds.columns[:7]) == ['sop', *LABELS] and len(preds) == res['n_slices']
    assert res['auc']['any'] >= .95
    assert res['weighted_log_loss'] <= res['prevalence_log_loss']/2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4*2**20
