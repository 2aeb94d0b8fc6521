"""What neighbours and series are worth: one slice, adjacent slices, a series model and gradient boosting on a hard phantom set.

Small and pale bleeds, labels as readers give them, test patients that nobody saw. For each seed a slice model is trained on two thirds of the training patients,
and what sees the series on what the slice model thinks of the other third. Everything is kept in --work, and a run that was stopped goes on there."""
import argparse, json, time
from pathlib import Path
import numpy as np, pandas as pd
from rsna_ich.core import LABELS, write_whole
from rsna_ich.data import PatientSplitter, correct_prior, slice_table
from rsna_ich.headers import scan
from rsna_ich.labels import read_labels
from rsna_ich.learner import load_model, train_model
from rsna_ich.metrics import auc, prevalence_log_loss, weighted_log_loss
from rsna_ich.phantom import PREVALENCE, as_read, write_phantom
from rsna_ich.series import slice_features
from rsna_ich.store import prepare

def phantoms(work, studies, test_studies, size, workers):
    "Slice tables with true labels, and their stores"
    res = {}
    for name,n,seed in (('train', studies, 50), ('test', test_studies, 51)):
        out = work/name
        if not (out/'labels.csv').exists(): write_phantom(out, n, 128, seed, {k:2*v for k,v in PREVALENCE.items()}, faint=.8, workers=workers)
        store = prepare(scan(out/'dicom'), work/f'{name}-store', size, read_size=128)
        res[name] = slice_table(store.index, read_labels(out/'labels.csv')),store
    return res

def slice_model(work, data, k, seed, epochs, arch):
    "A trained slice model with k neighbours, and what it thinks of the third of the training patients that it didn't see, and of the test patients"
    out = work/f'slices-{k}-{seed}'
    df,store = data['train']
    read = as_read(df, seed)
    if not (out/'config.json').exists():
        start = time.perf_counter()
        train_model(read, out, arch, store.settings['size'], epochs=epochs, lr=4e-3, pretrained=False, bs=32, n_folds=3, fold=seed%3, negatives=2., store=store, seed=seed, ps=.2, neighbours=k)
        print(f'{out.name}: {time.perf_counter()-start:.0f} s', flush=True)
    learn,held = load_model(out),PatientSplitter(3, seed%3, seed)(read)[1]
    parts = dict(held=(read.iloc[held].reset_index(drop=True), store), test=data['test'])
    if not (out/'features.npz').exists():
        with write_whole(out/'features.npz') as tmp:
            with open(tmp, 'wb') as f: np.savez(f, **{n:slice_features(learn, d, s) for n,(d,s) in parts.items()})
    with np.load(out/'features.npz') as f: return learn, {n:(parts[n][0], f[n]) for n in parts}

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--work', type=Path, default=Path('context'))
    for k,v in dict(studies=420, test_studies=210, size=72, epochs=4, seeds=3, workers=2).items(): ap.add_argument(f"--{k.replace('_', '-')}", type=int, default=v)
    ap.add_argument('--arch', default='test_resnet')
    a = ap.parse_args()
    data = phantoms(a.work, a.studies, a.test_studies, a.size, a.workers)
    for seed in range(a.seeds):
        for k in (0, 1):
            learn,got = slice_model(a.work, data, k, seed, a.epochs, a.arch)
            df,x = got['test']
            p = correct_prior(1/(1+np.exp(-x[:,-6:].astype(float))), learn.negatives_kept)
            y = as_read(df, 1000+seed)[list(LABELS)].to_numpy(float)
            print(k, seed, weighted_log_loss(p, y), prevalence_log_loss(y), auc(p, y)['any'], weighted_log_loss(p, df[list(LABELS)].to_numpy(float)), flush=True)
