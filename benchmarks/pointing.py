"The pointing game: how often the peak of a model's heat map lies in the bleed, on phantom studies whose masks are known"
import argparse, json, tempfile
from pathlib import Path
from rsna_ich.learn.saving import load_model
from rsna_ich.answer.explain import feature_layer, pointing_table
from rsna_ich.phantom.studies import phantom_study
from rsna_ich.starter.demo import run_demo

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--model', help='the folder of a saved model; when not given, one is trained as the demo does')
    p.add_argument('--studies', type=int, default=40, help='new phantom studies to play on')
    p.add_argument('--seed', type=int, default=9000, help='of these studies')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        if not args.model: run_demo(tmp)
        learn = load_model(args.model or Path(tmp)/'model')
    size,res = learn.ct.item_size,{}
    studies = [phantom_study((args.seed, i), size) for i in range(args.studies)]
    print(f'{learn.arch}, {learn.chain.size} pixels, {args.studies} phantom studies of {size} pixels, {sum(len(o.hu) for o in studies)} slices')
    for least in (1, 6, 12, 24):
        table = pointing_table(learn, studies, feature_layer(learn, least))
        print(f'map of {least} pixels or more' if least > 1 else 'the last map of the body', table.round(3).to_string(), sep='\n')
        res[least] = table.round(4).to_dict('index')
    print(json.dumps(dict(benchmark='pointing', arch=learn.arch, size=learn.chain.size, studies=args.studies, seed=args.seed, least=res)))

if __name__ == '__main__': main()
