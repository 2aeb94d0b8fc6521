"""The README's picture from a finished demo: python tools/picture.py DEMO_DIR

One slice of each subtype and a normal one, of patients that the demo's model has never seen, with the model's answers."""
import sys
from textwrap import fill
from pathlib import Path
import matplotlib.pyplot as plt
from rsna_ich.core.labels import LABELS, SUBTYPES
from rsna_ich.dicom.door import read_hu
from rsna_ich.dicom.display import show_hu
from rsna_ich.report.plots import LABEL_COLORS
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.submission import load_predictions

def choose(df):
    "For each subtype a slice where it stands alone if there is one, the model neither surest nor least sure; and a normal slice at mid-height"
    n = df[[f'true_{l}' for l in SUBTYPES]].sum(axis=1)
    for l in SUBTYPES:
        rows = df[df[f'true_{l}'] == 1]
        rows = rows[n[rows.index] == n[rows.index].min()].sort_values(l)
        yield rows.iloc[len(rows)*2//3]
    normal = df[df.true_any == 0]
    yield normal.loc[(df.groupby('series').z.rank(pct=True)[normal.index] - .62).abs().idxmin()]

def title(row): return 'true: ' + (', '.join(l for l in SUBTYPES if row[f'true_{l}'] == 1) or 'no haemorrhage')

def main(demo):
    truth = read_labels(demo/'test'/'labels.csv').rename(columns={l:f'true_{l}' for l in LABELS})
    chosen = list(choose(load_predictions(demo/'predictions.csv').merge(truth, on='sop')))
    fig,axs = plt.subplots(2, len(chosen), figsize=(2*len(chosen), 3.6), height_ratios=(2, 1.25), layout='constrained', facecolor='white')
    for row,top,bars in zip(chosen, *axs):
        show_hu(read_hu(demo/row.path), 'brain', ax=top, title=fill(title(row), 22))
        bars.barh(range(6), [row[l] for l in LABELS], color=[LABEL_COLORS[l] for l in LABELS])
        bars.set(xlim=(0, 1), ylim=(5.5, -.5), xticks=(0, .5, 1), yticks=range(6), yticklabels=LABELS if bars is axs[1][0] else [])
        bars.tick_params(labelsize=7, length=2)
        bars.spines[['top', 'right']].set_visible(False)
    fig.supxlabel('probability from the demo\'s model; made-up slices of unseen patients; research only, not for diagnosis', fontsize=8)
    out = Path(__file__).resolve().parents[1]/'nbs'/'images'/'answers.png'
    out.parent.mkdir(exist_ok=True)
    fig.savefig(out, dpi=110)

if __name__ == '__main__': main(Path(sys.argv[1]))
