"The main job in small on real slices: scan, train, predict, submit"
import numpy as np
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.header_files import load_headers, save_headers
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels, to_long
from rsna_ich.data.submission import write_submission
from rsna_ich.data.tables import slice_table
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.answer.inference import predict
from rsna_ich.answer.evaluation_report import evaluate

def test_the_main_job_on_real_slices(real, tmp_path):
    save_headers(scan(real/'dicom'), tmp_path/'headers.parquet')
    headers,labels = load_headers(tmp_path/'headers.parquet'),read_labels(real/'labels.csv')
    df = slice_table(headers, labels)
    assert (len(df), int(df['any'].sum())) == (264, 53)
    learn = train_model(df, tmp_path/'model', 'mobilenetv3_small_050', size=64, epochs=2, lr=3e-3, pretrained=False, bs=32)
    one = learn.predict(real/'dicom'/'ID_000012eaf.dcm')
    assert list(one) == list(LABELS) and all(0 <= v <= 1 for v in one.values())
    preds = predict(headers, load_model(tmp_path/'model'), tta=True)
    assert len(preds) == 333 and preds.error.isna().all() and preds.path.tolist() == headers.path.tolist()
    to_long(preds).assign(Label=.5)[::-1].to_csv(tmp_path/'sample.csv', index=False)
    sub = write_submission(preds, tmp_path/'sample.csv', tmp_path/'submission.csv')
    assert len(sub) == 333*6
    res = evaluate(preds, labels, tmp_path/'eval', root=headers.attrs['root'])
    assert res['n_slices'] == 264 and np.isfinite(res['weighted_log_loss'])
