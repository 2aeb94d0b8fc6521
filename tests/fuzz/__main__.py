"""Mutate good DICOM files and read them.

    python -m tests.fuzz --mutants 20000 --seed 1              # all seven syntaxes
    python -m tests.fuzz --mutants 500 --syntaxes rle j2k
    python -m tests.fuzz --replay rle:123 --seed 1 --out x.dcm # one mutant again

same: HU as before · refused: a DicomError · flagged: header touched, HU differ, and a flag says so · pixels: pixel bytes touched, HU differ ·
plausible: header touched, and its one changed element is as good as the old one · silent: header touched, HU differ, not a word ·
escape: another exception · leak: an error with the patient's text · crash, hang: of the reading process (20 s)."""
import argparse, json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.fuzz.run import OUTCOMES, campaign, mutant, outcome, work
from tests.fuzz.seeds import SYNTAXES, make_seeds

def table(rows):
    "Results as text, a line a syntax"
    cols = ['syntax', 'mutants', *OUTCOMES, 'parent_mb', 'decoder_mb', 'per_second']
    text = [cols] + [[f'{r[c]:.0f}' if isinstance(r[c], float) else str(r[c]) for c in cols] for r in rows]
    widths = [max(map(len, o)) for o in zip(*text)]
    return '\n'.join('  '.join(o.rjust(w) for o,w in zip(line, widths)) for line in text)

def parser():
    p = argparse.ArgumentParser('python -m tests.fuzz', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--mutants', type=int, default=1000, help='a syntax')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--syntaxes', nargs='+', choices=list(SYNTAXES), default=list(SYNTAXES))
    p.add_argument('--jobs', type=int, default=1, help='syntaxes at a time')
    p.add_argument('--replay', help='SYNTAX:NUMBER, one mutant again')
    p.add_argument('--out', type=Path, help='where to write it')
    for o in ('--work', '--codes', '--notes'): p.add_argument(o, help=argparse.SUPPRESS)
    p.add_argument('--first', type=int, help=argparse.SUPPRESS)
    return p

def main():
    args = parser().parse_args()
    if args.work: return work(args.work, args.seed, args.first, args.codes, args.notes)
    if args.replay:
        syntax,i = args.replay.split(':')
        src,m = mutant(make_seeds(syntax), syntax, args.seed, int(i))
        if args.out: args.out.write_bytes(m.data)
        return print(src.name, m.kind, 'pixels' if m.pixels else 'header', *outcome(src, m))
    with ThreadPoolExecutor(args.jobs) as pool: rows = list(pool.map(lambda s: campaign(s, args.mutants, args.seed), args.syntaxes))
    print(table(rows))
    for r in rows:
        for note in r['notes']: print(r['syntax'], *note)
    print(json.dumps(dict(seed=args.seed, results=rows)))

if __name__ == '__main__': main()
