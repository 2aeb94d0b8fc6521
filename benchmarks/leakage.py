"""How much a split by slice flatters a model: the same small model trained on a split by patient and on one by slice, each scored on its own validation slices and on patients that neither has seen

python benchmarks/leakage.py [--seeds 8] [--studies 28] [--held 20] [--slices 22] [--arch test_resnet] [--size 64] [--epochs 6] [--lr 0.004] [--bs 32]

For each seed a new phantom of `studies` patients with `slices` slices each is split into five parts both ways, one part is for validation, and the larger training set loses slices
at random until both are of one size; weights start alike. `held` further patients, which neither split holds, are the test. *optimism* is what the own validation
slices promise above what the test gives: AUC of any haemorrhage there less here, weighted log loss here less there. A split that is honest has none on average."""
import argparse, tempfile
from inspect import signature
from pathlib import Path
import numpy as np, pandas as pd
from fastai.callback.core import Callback, CancelValidException
from fastai.torch_core import set_seed
from contest import conditions, last_line
from rsna_ich.core.labels import SUBTYPES
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.data.splits import patient_folds, slice_folds
from rsna_ich.data.store import prepare
from rsna_ich.data.loaders import ICHDataLoaders
from rsna_ich.learn.metrics import summarise
from rsna_ich.learn.learner import ich_learner
from rsna_ich.phantom.files import write_phantom

KINDS = dict(patient=patient_folds, slice=slice_folds)
FIGURES = dict(auc='AUC of any', loss='weighted log loss')

class NoValidation(Callback):
    "No validation between epochs: the test isn't looked at before the end"
    def before_validate(self): raise CancelValidException

def phantoms(folder, studies, held, slices, seed, side):
    "Slice table and store of new patients, and which rows are of those that are held out"
    write_phantom(folder, studies=studies+held, size=side, seed=seed, n_slices=slices, prevalence=dict.fromkeys(SUBTYPES, .06))
    headers = scan(folder/'dicom', workers=1)
    store = prepare(headers, folder/'store', size=side, read_size=side)
    df = slice_table(store.index, read_labels(folder/'labels.csv'))
    patients = np.random.default_rng(seed).permutation(sorted(df.patient.unique()))
    return df, store, df.patient.isin(patients[:held]).to_numpy()

def sides(pool, seed):
    "Row numbers within `pool` of training and validation by kind of split, training sets of one size"
    rng = np.random.default_rng(seed)
    valid = {k:f(pool, 5, seed) == 0 for k,f in KINDS.items()}
    n = min((~v).sum() for v in valid.values())
    return {k:(rng.permutation(np.flatnonzero(~v))[:n], np.flatnonzero(v)) for k,v in valid.items()}

def scores(p, y):
    res = summarise(p, y)
    return dict(auc=res['auc']['any'], loss=res['weighted_log_loss'])

def trained(df, store, train, valid, test, arch, epochs, lr, bs, seed):
    "Scores on the own validation slices and on the test"
    set_seed(seed, reproducible=True)
    rows = np.concatenate([valid, test]).tolist()
    dls = ICHDataLoaders.from_store(store, df, dict(aug=True), splitter=lambda _: (train.tolist(), rows), bs=bs)
    learn = ich_learner(dls, arch, pretrained=False, metrics=[], ps=.2)
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(NoValidation()): learn.fit_one_cycle(epochs, lr)
    with learn.no_bar(): p,y = (o.numpy() for o in learn.get_preds())
    n = len(valid)
    return dict(own=scores(p[:n], y[:n]), test=scores(p[n:], y[n:]))

def one_seed(seed, studies, held, slices, arch, size, epochs, lr, bs):
    "A row for each kind of split"
    with tempfile.TemporaryDirectory() as d:
        df,store,out = phantoms(Path(d), studies, held, slices, seed, size)
        inside,outside = np.flatnonzero(~out),np.flatnonzero(out)
        for kind,(train,valid) in sides(df[~out].reset_index(drop=True), seed).items():
            res = trained(df, store, inside[train], inside[valid], outside, arch, epochs, lr, bs, seed)
            shared = set(df.patient.iloc[inside[train]]) & set(df.patient.iloc[inside[valid]])
            sizes = dict(train=len(train), valid=len(valid), test=len(outside), shared=len(shared))
            yield dict(seed=seed, kind=kind) | sizes | {f'{k}_{w}':v for w,s in res.items() for k,v in s.items()}

def with_optimism(rows):
    df = pd.DataFrame(rows)
    return df.assign(auc_optimism=df.auc_own-df.auc_test, loss_optimism=df.loss_test-df.loss_own)

def summary(df):
    "Mean and standard deviation over seeds, by kind of split and as the difference within a seed"
    cols = [f'{k}_{w}' for k in FIGURES for w in ('own', 'test', 'optimism')]
    by = {k:df[df.kind == k].set_index('seed')[cols] for k in KINDS}
    by['slice - patient'] = by['slice'] - by['patient']
    return {k:{c:(float(t[c].mean()), float(t[c].std())) for c in cols} for k,t in by.items()}

def table(res):
    print(f"{'':18}" + ''.join(f'{f"{name}, {w}":>29}' for name in FIGURES.values() for w in ('own', 'test', 'optimism')))
    for k,v in res.items(): print(f'{k:18}' + ''.join(f'{m:+20.4f} ± {s:.4f}' for m,s in v.values()))

def measure(seeds=8, studies=28, held=20, slices=22, arch='test_resnet', size=64, epochs=6, lr=4e-3, bs=32):
    "A row for each seed and kind of split"
    rows = []
    for seed in range(seeds):
        for row in one_seed(seed, studies, held, slices, arch, size, epochs, lr, bs):
            rows.append(row)
            print({k:round(v, 4) if isinstance(v, float) else v for k,v in row.items()}, flush=True)
    return with_optimism(rows)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,p in signature(measure).parameters.items(): ap.add_argument(f'--{k}', type=type(p.default), default=p.default)
    a = ap.parse_args()
    df = measure(**vars(a))
    res = summary(df)
    table(res)
    last_line('leakage', res['slice']['auc_optimism'][0]-res['patient']['auc_optimism'][0], 'AUC of any', int(df.test.sum()//2), settings=vars(a), figures=res, runs=df.round(4).to_dict('records'),
        conditions=conditions('fastai', 'timm'))

if __name__ == '__main__': main()
