"""What neighbours and series are worth: one slice, adjacent slices, a series model and gradient boosting on a hard phantom set.

Small and pale bleeds, labels as readers give them, test patients that nobody saw. For each seed a slice model is trained on two thirds of the training patients. It is then
trained on twice from the same weights, as it is and with neighbours as further channels; and what sees the series on what each of the two thinks of the other third. Everything is kept
in --work, and a run that was stopped goes on there."""
import argparse, json, time
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from scipy.special import expit, logit
from rsna_ich.core.labels import LABELS
from rsna_ich.core.files import write_whole
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.series import neighbour_rows
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.tables import slice_table
from rsna_ich.data.store import prepare
from rsna_ich.learn.metrics import auc, prevalence_log_loss, weighted_log_loss
from rsna_ich.learn.calibration import calibration_error, fit_temperature
from rsna_ich.learn.saving import load_model
from rsna_ich.learn.training import train_model
from rsna_ich.learn.features import prior_corrected_features
from rsna_ich.learn.series_model import answers_in_context, fit_series
from rsna_ich.learn.context import cross_validate_context, held_back_slices
from rsna_ich.phantom.bleeds import PHANTOM_PREVALENCE
from rsna_ich.phantom.files import labels_as_read, write_phantom

def phantoms(work, studies, test_studies, size, workers):
    "Slice tables with true labels, and their stores"
    res = {}
    for name,n,seed in (('train', studies, 50), ('test', test_studies, 51)):
        out = work/name
        if not (out/'labels.csv').exists(): write_phantom(out, n, 128, seed, {k:2*v for k,v in PHANTOM_PREVALENCE.items()}, faint=.8, workers=workers)
        store = prepare(scan(out/'dicom'), work/f'{name}-store', size, read_size=128)
        res[name] = slice_table(store.index, read_labels(out/'labels.csv')),store
    return res

def trained(out, read, store, seed, **options):
    "The folder of a model, trained unless it is there"
    if (out/'config.json').exists(): return out
    start = time.perf_counter()
    train_model(read, out, size=store.settings['size'], lr=4e-3, bs=32, n_folds=3, fold=seed%3, negatives=2., store=store, seed=seed, ps=.2, **options)
    print(f'{out.name}: {time.perf_counter()-start:.0f} s', flush=True)
    return out

def slice_model(work, data, k, seed, epochs, more, arch):
    "What a slice model with k neighbours thinks of the third of the training patients that it didn't see, and of the test patients"
    df,store = data['train']
    read = labels_as_read(df, seed)
    first = trained(work/f'first-{seed}', read, store, seed, arch=arch, epochs=epochs, pretrained=False)
    out = trained(work/f'slices-{k}-{seed}', read, store, seed, arch=arch, epochs=more, start=first, body=1., neighbours=k)
    learn = load_model(out)
    parts = dict(held=(held_back_slices(read, learn), store), test=data['test'])
    if not (out/'features.npz').exists():
        with write_whole(out/'features.npz') as tmp, open(tmp, 'wb') as f: np.savez(f, **{n:prior_corrected_features(learn, *o) for n,o in parts.items()})
    with np.load(out/'features.npz') as f: return {n:(parts[n][0], f[n]) for n in parts} | dict(kept=learn.negatives_kept)

def near_logits(df, logits, k=3):
    "What a tree may look at: the logits of the slices around, their largest and mean in the series, and where the slice is"
    pos = df.groupby(['study', 'series'], dropna=False).position.transform(lambda z: (z-z.min())/100).to_numpy()[:,None]
    by = pd.DataFrame(logits).groupby([df.study.to_numpy(), df.series.to_numpy()])
    return np.c_[logits[neighbour_rows(df, k)].reshape(len(df), -1), by.transform('max'), by.transform('mean'), pos]

def boosted(held, logits, test, test_logits, seed):
    "Gradient boosting over neighbours' logits, a model a label: logits of the test slices"
    res,x,z = test_logits.copy(),near_logits(held, logits),near_logits(test, test_logits)
    for i,l in enumerate(LABELS):
        y = held[l].to_numpy(int)
        trees = HistGradientBoostingClassifier(learning_rate=.05, max_iter=80, max_leaf_nodes=8, l2_regularization=5., random_state=seed)
        if y.sum() >= 10: res[:,i] = logit(trees.fit(x, y).predict_proba(z)[:,1])
    return res

def as_trained(logits, kept):
    "Logits as the network has them, before the prevalence is put right"
    p = expit(np.asarray(logits, float))
    seen = p[:,:1] + kept*(1-p[:,:1])
    return logit((p/seen).clip(1e-7, 1-1e-7))

def at_temperature(held, logits, test_logits):
    "Logits of the test slices at the temperatures that fit the held slices best"
    return test_logits/fit_temperature(expit(np.asarray(logits, float)), held[list(LABELS)].to_numpy(float)).to_numpy()

def contestants(got, seed):
    "Logits of the test slices, by the way they were come to"
    (held,x),(test,z) = got['held'],got['test']
    smooth = z[:,-6:][neighbour_rows(test, 1)].mean(1)
    trees = boosted(held, x[:,-6:], test, z[:,-6:], seed)
    series = answers_in_context(fit_series(held, x, seed=seed), test, z)[0]
    calibrated = at_temperature(held, x[:,-6:], z[:,-6:]),at_temperature(held, cross_validate_context(held, x, seed=seed)[0], series)
    return {'slices':z[:,-6:], 'slices, as trained':as_trained(z[:,-6:], got['kept'])} | dict(smoothed=smooth, boosting=trees, series=series) | dict(zip(('slices, calibrated', 'series, calibrated'), calibrated))

def figures(logits, df, seed):
    "Against labels that other readers gave, and against the truth"
    p,truth = expit(np.asarray(logits, float)),df[list(LABELS)].to_numpy(float)
    read = labels_as_read(df, 1000+seed)[list(LABELS)].to_numpy(float)
    study = pd.DataFrame(dict(p=p[:,0], y=truth[:,0])).groupby(df.study.to_numpy()).max()
    res = dict(log_loss=weighted_log_loss(p, read), auc_any=float(auc(p, read)['any']), ece=float(calibration_error(p, read).mean()))
    return res | dict(log_loss_truth=weighted_log_loss(p, truth),
        auc_study=float(roc_auc_score(study.y, study.p)), prevalence_log_loss=prevalence_log_loss(read))

def table(runs):
    "Mean and deviation over the seeds of each way, and how much lower the loss is than that of the same slices alone"
    df = pd.DataFrame(runs)
    alone = df[df.way == 'slices'].set_index(['neighbours', 'seed']).log_loss
    df['lower'] = 1 - df.log_loss.to_numpy()/alone.loc[list(zip(df.neighbours, df.seed))].to_numpy()
    df['lower_than_one_slice'] = 1 - df.log_loss.to_numpy()/alone.loc[[(0, o) for o in df.seed]].to_numpy()
    return df.groupby(['neighbours', 'way'], sort=False)[['log_loss', 'auc_any', 'ece', 'log_loss_truth', 'auc_study', 'lower', 'lower_than_one_slice']].agg(['mean', 'std'])

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--work', type=Path, default=Path('context'))
    for k,v in dict(studies=630, test_studies=210, size=72, epochs=4, more=2, seeds=3, workers=2).items(): ap.add_argument(f"--{k.replace('_', '-')}", type=int, default=v)
    ap.add_argument('--arch', default='test_resnet')
    a = ap.parse_args()
    data,runs = phantoms(a.work, a.studies, a.test_studies, a.size, a.workers),[]
    for seed in range(a.seeds):
        for k in (0, 1):
            got = slice_model(a.work, data, k, seed, a.epochs, a.more, a.arch)
            runs += [dict(neighbours=k, seed=seed, way=w, **figures(o, got['test'][0], seed)) for w,o in contestants(got, seed).items()]
            with write_whole(a.work/'context.json') as tmp: tmp.write_text(json.dumps(runs, indent=1))
    print(table(runs).round(4).to_string())
