"""Write README.md from nbs/index.ipynb, or with --check fail when it is not up to date

nbdev renders a README with quarto, which the package index doesn't hold; nbconvert is enough for ours."""
import re, sys
from pathlib import Path
from nbconvert import MarkdownExporter
import nbformat

root = Path(__file__).resolve().parents[1]

def is_hidden(cell): return bool(re.search(r'^#\|\s*hide\s*$', cell.source, re.M))

def strip_directives(cell):
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    return cell

def render():
    "The README's text: hidden cells and directives left out, text outputs kept, links made relative to the top level"
    nb = nbformat.read(root/'nbs'/'index.ipynb', as_version=4)
    nb.cells = [strip_directives(c) for c in nb.cells if not is_hidden(c)]
    nb.metadata.language_info = dict(name='python')
    exporter = MarkdownExporter()
    text,_ = exporter.from_notebook_node(nb)
    text = re.sub(r'\]\((?=(?:[a-z]+/)?\w+\.(?:ipynb|png)\))', '](nbs/', text)
    text = text.replace('](../', '](')
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

def main():
    path,text = root/'README.md',render()
    if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    elif path.read_text(encoding='utf-8') != text: sys.exit('README.md is not up to date: run python tools/readme.py')

if __name__ == '__main__': main()
