"Nothing lost and nothing told: full disks, archives, planted canaries, models that are programs"
import json, resource, subprocess, sys, zipfile
from pathlib import Path
import numpy as np, pandas as pd, pydicom, pytest
from rsna_ich.core.errors import DataError, ModelError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.header_rows import header_row
from rsna_ich.dicom.header_files import load_headers, save_headers
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.privacy import deidentify
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.submission import save_predictions, write_submission
from rsna_ich.data.tables import slice_table
from rsna_ich.data.store import Store, prepare, verify
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.answer.inference import changed_since, predict
from rsna_ich.answer.evaluation_report import evaluate
from rsna_ich.phantom.headers_like import write_headers_like

def _train(table, out, **kwargs):
    return train_model(table, out, 'mobilenetv3_small_050', **dict(size=32, epochs=1, lr=3e-3, pretrained=False, n_folds=3, bs=16, crop=False) | kwargs)

@pytest.fixture(scope='module')
def headers(heads): return scan(heads/'dicom')

@pytest.fixture(scope='module')
def model(headers, heads, tmp_path_factory):
    out = tmp_path_factory.mktemp('m')/'model'
    _train(slice_table(headers, read_labels(heads/'labels.csv')), out)
    return out

# -- archives

def by_path(df):
    "A table in the order of its paths; an archive's is that in which the files lie"
    res = df.sort_values('path', ignore_index=True)
    res.attrs = df.attrs
    return res

@pytest.fixture(scope='module')
def packed(heads, tmp_path_factory):
    path = tmp_path_factory.mktemp('z')/'set.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for f in sorted((heads/'dicom').iterdir()): z.write(f, f'deep/{f.name}')
    return path

def test_everything_works_from_a_zip(packed, headers, model, tmp_path):
    "The same rows, the same store, the same answers, and nothing unpacked"
    table = by_path(scan(packed))
    assert table.assign(path=table.path.str.removeprefix('deep/')).equals(headers)
    ours,theirs = prepare(table, tmp_path/'zip', size=32),prepare(headers, tmp_path/'folder', size=32)
    assert (ours.path/'pixels.npy').read_bytes() == (theirs.path/'pixels.npy').read_bytes()
    a,b = predict(packed, model).sort_values('path', ignore_index=True),predict(headers, model)
    assert np.allclose(a[list(LABELS)], b[list(LABELS)], atol=1e-6) and (a.pixels_sha256 == b.pixels_sha256).all()
    assert predict(packed/'deep'/headers.path[0], model)['any'][0] == pytest.approx(a['any'][0], abs=1e-6)
    few = predict([packed/'deep'/o for o in headers.path[:3]], model)
    assert few.error.isna().all() and np.allclose(few[list(LABELS)], a[list(LABELS)][:3], atol=1e-6)
    assert len(load_model(model).predict(packed)) == len(a)
    assert [o.name for o in packed.parent.iterdir()] == ['set.zip']

@pytest.mark.parametrize('kind', ['tar', 'tar.gz'])
def test_tars(heads, headers, tmp_path, kind):
    import tarfile
    with tarfile.open(tmp_path/f'set.{kind}', f"w:{'gz' if kind == 'tar.gz' else ''}") as t: t.add(heads/'dicom', 'all')
    table = by_path(scan(tmp_path/f'set.{kind}'))
    assert table.assign(path=table.path.str.removeprefix('all/')).equals(headers)
    few = table[:9]
    few.attrs = table.attrs
    assert np.array_equal(prepare(few, tmp_path/'a', size=32).pixels[:], prepare(headers[:9], tmp_path/'b', size=32).pixels[:])

def test_a_hostile_member_is_a_row(heads, tmp_path):
    f = next((heads/'dicom').iterdir()).read_bytes()
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z:
        for name in ('good.dcm', '../up.dcm', '/etc/passwd', 'note.txt'): z.writestr(name, f if name.endswith('dcm') else 'hello')
    df = scan(tmp_path/'x.zip').set_index('path')
    assert df.error.isna().sum() == 1 and 'step up' in df.error['../up.dcm'] and 'absolute' in df.error['/etc/passwd']

# -- digests

@pytest.mark.parametrize('where', range(12))
def test_every_changed_byte_is_found(heads, model, tmp_path, where):
    "One bit in one byte of the pixels, anywhere: `verify` and `changed_since` name that file and no other"
    rng = np.random.default_rng(where)
    for f in sorted((heads/'dicom').iterdir())[:8]: (tmp_path/f.name).write_bytes(f.read_bytes())
    df = scan(tmp_path)
    store,preds = prepare(df, tmp_path.parent/f's{where}', size=32),predict(df, model)
    assert not len(verify(store)) and not len(changed_since(preds, tmp_path))
    row = df.iloc[rng.integers(8)]
    data = bytearray((tmp_path/row.path).read_bytes())
    data[row.pixel_offset + rng.integers(row.pixel_bytes)] ^= 1 << rng.integers(8)
    (tmp_path/row.path).write_bytes(data)
    assert list(verify(store).path) == list(changed_since(preds, tmp_path).path) == [row.path]

@pytest.mark.parametrize('name', ['pixels.npy', 'index.parquet'])
def test_a_store_that_changed_is_found(headers, tmp_path, name):
    s = prepare(headers[:4], tmp_path/'s', size=32)
    data = bytearray((s.path/name).read_bytes())
    data[len(data)//2] ^= 1
    (s.path/name).write_bytes(data)
    with pytest.raises(DataError, match='not as it was made'): verify(s)

# -- a full disk

FULL = '''
import resource, signal, sys
from rsna_ich.dicom.header_files import load_headers
from rsna_ich.dicom.scanning import scan_to
from rsna_ich.data.submission import save_predictions
from rsna_ich.data.store import prepare
from rsna_ich.answer.inference import predict
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
what,src,out,model,limit = sys.argv[1:]
df = None if what == 'scan' else load_headers(src)
preds = predict(df, model) if what == 'predict' else None
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit),)*2)
try:
    if what == 'scan': scan_to(out, src)
    elif what == 'prepare': prepare(df, out, size=32)
    else: save_predictions(preds, out)
except OSError as e: sys.exit(3)
'''

@pytest.mark.parametrize('what,limit', [('scan', 4000), ('prepare', 4000), ('prepare', 60_000), ('predict', 2000)])
def test_a_disk_that_fills_up_leaves_no_half_file(heads, headers, model, tmp_path, what, limit):
    save_headers(headers, tmp_path/'h.parquet')
    out,src = tmp_path/'out'/'x',heads/'dicom' if what == 'scan' else tmp_path/'h.parquet'
    def run(limit): return subprocess.run([sys.executable, '-c', FULL, what, src, out, model, str(limit)]).returncode
    assert run(limit) == 3
    if what == 'prepare':
        with pytest.raises(DataError, match='not a finished one'): Store(out)
    else: assert not out.exists() and not [o for o in out.parent.glob('.*')]
    assert run(2**40) == 0
    if what == 'scan': assert load_headers(out).equals(headers)
    if what == 'prepare': assert len(Store(out)) == len(headers)
    if what == 'predict': assert len(pd.read_csv(out)) == len(headers)

# -- models

@pytest.mark.parametrize('name', ['learner.pkl', 'weights.pth'])
def test_a_pickled_model_is_refused_in_one_line(tmp_path, name):
    import pickle
    class Bomb:
        def __reduce__(self): return (exec, (f"open({str(tmp_path/'ran')!r}, 'w')",))
    (tmp_path/name).write_bytes(pickle.dumps(Bomb()))
    for path in (tmp_path/name, tmp_path):
        with pytest.raises(ModelError) as e: load_model(path)
        assert '\n' not in str(e.value)
    assert not (tmp_path/'ran').exists()

def test_an_oversized_layer_is_refused_without_the_memory_for_it(model, tmp_path):
    "A header that declares a terabyte of weights in a file of a few bytes"
    import hashlib, struct
    for o in model.iterdir(): (tmp_path/o.name).write_bytes(o.read_bytes())
    head = json.dumps(dict(huge=dict(dtype='F32', shape=[2**20, 2**18], data_offsets=[0, 2**40]))).encode()
    data = struct.pack('<Q', len(head)) + head + bytes(64)
    (tmp_path/'model.safetensors').write_bytes(data)
    cfg = json.loads((tmp_path/'config.json').read_text()) | dict(weights_sha256=hashlib.sha256(data).hexdigest())
    (tmp_path/'config.json').write_text(json.dumps(cfg))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError): load_model(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000

def test_fastais_export_is_not_offered(model, tmp_path):
    with pytest.raises(ModelError, match='save_model'): load_model(model).export(tmp_path/'x.pkl')
    assert not list(tmp_path.iterdir())

# -- canaries

NAMES = ('CANARYNAME', 'CANARYID', '19231224', 'CANARYPRE', 'CANARYPRIV')

@pytest.fixture(scope='module')
def planted(heads, tmp_path_factory):
    "Three slices with a canary in every text element, private ones and the preamble; one of them broken"
    root = tmp_path_factory.mktemp('planted')
    from pydicom.datadict import DicomDictionary
    text = {'LO', 'SH', 'PN', 'ST', 'LT', 'UT', 'UC', 'CS', 'AE'}
    keep = {'Modality', 'PhotometricInterpretation', 'SpecificCharacterSet', 'ImageType'}
    for i,f in enumerate(sorted((heads/'dicom').iterdir())[:3]):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(f)
            for tag,(vr,vm,_,retired,kw) in DicomDictionary.items():
                if vr in text and kw and kw not in keep and not retired and 0x80000 <= tag < 0x300000: setattr(ds, kw, 'CANARYNAME')
                if vr == 'DA' and kw and 0x80000 <= tag < 0x300000: setattr(ds, kw, '19231224')
            ds.PatientID,ds.RescaleType = 'CANARYID','HU'
            ds.LossyImageCompression = '00'
            block = ds.private_block(0x0011, 'CANARYPRIV', create=True)
            block.add_new(1, 'LO', 'CANARYPRIV')
            ds.preamble = b'CANARYPRE'.ljust(128, b'\0')
            ds.save_as(root/f'slice{i}.dcm')
    broken = root/'slice2.dcm'
    broken.write_bytes(broken.read_bytes()[:-300])
    return root

def texts(folder): return {o:o.read_bytes() for o in folder.rglob('*') if o.is_file()}

def test_canaries_do_not_sing(planted, model, tmp_path, capfd, caplog, recwarn):
    "Of all that was planted only the patient's id is in our tables, and with a key not even that"
    df = scan(planted)
    assert df.error.notna().tolist() == [False, False, True]
    save_headers(df, tmp_path/'headers.parquet')
    df.to_csv(tmp_path/'headers.csv')
    prepare(df, tmp_path/'store', size=32)
    preds = predict(planted, model)
    save_predictions(preds, tmp_path/'predictions.csv')
    labels = pd.DataFrame(dict(sop=df.sop)).assign(**{l:[1., 0., 0.] for l in LABELS})
    evaluate(preds, labels, tmp_path/'eval', root=str(planted))
    for i in range(3): header_row(planted/f'slice{i}.dcm')
    said = ''.join([*capfd.readouterr(), caplog.text, *[str(w.message) for w in recwarn]]).encode()
    index = pd.read_parquet(tmp_path/'store'/'index.parquet').to_csv().encode()
    for where,data in (texts(tmp_path) | {'messages':said, 'index':index}).items():
        for canary in NAMES:
            if canary != 'CANARYID' or Path(str(where)).parts[-2:-1] == ('eval',) or where == 'messages': assert canary.encode() not in data, (canary, where)
    hidden = tmp_path/'hidden'
    save_predictions(deidentify(preds, 'key'), hidden/'predictions.csv')
    for data in texts(hidden).values():
        for canary in (*NAMES, 'slice', *preds.sop, *preds.study.dropna()): assert canary.encode() not in data, canary

def test_the_command_hides_ids(planted, model, tmp_path):
    run = "import sys; from rsna_ich.cli import main; main()"
    r = subprocess.run([sys.executable, '-c', run, 'predict', planted, '--model', model, '--out', tmp_path/'p.csv', '--deidentify', 'key'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert not any(c in r.stdout + r.stderr + (tmp_path/'p.csv').read_text() for c in (*NAMES, 'slice2'))

def test_same_key_same_ids(headers):
    a,b,c = deidentify(headers, 'k'),deidentify(headers[::-1], 'k'),deidentify(headers, 'l')
    assert a.patient.tolist() == b.patient.tolist()[::-1] and not set(a.patient) & set(c.patient)
    assert a.patient.nunique() == headers.patient.nunique()
    with pytest.raises(DataError, match='empty key'): deidentify(headers, '')

# -- submissions

def test_a_submission_is_the_same_from_any_order_and_batch(model, headers, tmp_path):
    sample = pd.DataFrame(dict(ID=[f'{s}_{l}' for s in headers.sop for l in LABELS], Label=.5))
    sample.to_csv(tmp_path/'sample.csv', index=False)
    for i,(df,bs) in enumerate(((headers, 64), (headers[::-1], 7), (headers.sample(frac=1, random_state=1), 1))):
        df.attrs = headers.attrs
        write_submission(predict(df, model, bs=bs), tmp_path/'sample.csv', tmp_path/f'{i}.csv')
    subs = [pd.read_csv(tmp_path/f'{i}.csv') for i in range(3)]
    for s in subs[1:]: assert (s.ID == subs[0].ID).all() and (s.Label - subs[0].Label).abs().max() <= 1.5e-6

# -- one among many

@pytest.mark.slow
def test_one_bad_file_among_ten_thousand(model, tmp_path):
    "It costs its own row in scan, prepare, train and predict, with any number of processes or threads"
    n,bad = 10_000,4321
    table = pd.DataFrame(dict(SOPInstanceUID=[f'ID_{i:09x}' for i in range(n)], PatientID=[f'ID_{i//20:08x}' for i in range(n)])).assign(
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1, SamplesPerPixel=1, RescaleSlope='1', RescaleIntercept='-1024', Modality='CT',
        PhotometricInterpretation='MONOCHROME2', ImagePositionPatient="['0', '0', '0']", ImageOrientationPatient="['1', '0', '0', '0', '1', '0']",
        PixelSpacing="['.5', '.5']", StudyID='', StudyInstanceUID='ID_1', SeriesInstanceUID='ID_2', WindowCenter='30', WindowWidth='80')
    table.to_csv(tmp_path/'table.csv', index=False)
    write_headers_like(tmp_path/'set', tmp_path/'table.csv', size=64, sparse=True)
    names = sorted(o.name for o in (tmp_path/'set'/'dicom').iterdir())
    headers = scan(tmp_path/'set'/'dicom')
    (tmp_path/'set'/'dicom'/names[bad]).write_bytes(b'not what it was')
    for workers in (1, 2): assert np.flatnonzero(scan(tmp_path/'set'/'dicom', workers=workers).error.notna()).tolist() == [bad]
    store = prepare(headers, tmp_path/'store', size=32, crop=False)
    assert np.flatnonzero(store.index.row.isna()).tolist() == [bad] and names[bad] in store.index.error[bad]
    for threads in (1, 4):
        preds = predict(headers, model, bs=512, threads=threads)
        assert np.flatnonzero(preds['any'].isna()).tolist() == [bad] == np.flatnonzero(preds.error.notna()).tolist()
    df = slice_table(headers).assign(**dict.fromkeys(LABELS, 0.))
    df.attrs = headers.attrs
    everything = list(range(len(df)))
    dls = ICHDataLoaders.from_table(df, size=32, bs=500, chain=dict(windows=['brain']), splitter=lambda _: (everything, everything[:500]))
    with pytest.warns(UserWarning, match=names[bad]): assert sum(int((~y.isnan()).all(1).sum()) for _,y in dls.train) == n-1
