"The project's own promises: one source of metadata, one version, a README that is up to date, no pickle"
import ast, re, subprocess, sys, tomllib
from configparser import ConfigParser
from importlib.metadata import entry_points, requires, version
from pathlib import Path
import pytest, rsna_ich

root = Path(__file__).resolve().parents[1]
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')

def test_metadata_has_one_source():
    pyproject = tomllib.loads((root/'pyproject.toml').read_text())
    assert 'project' not in pyproject
    assert 'version' not in cfg['DEFAULT'] and version('rsna_ich') == rsna_ich.__version__
    name = lambda o: re.match(r'[\w.-]+', o)[0].lower()
    extra = lambda o: (re.findall(r'extra == "(\w+)"', o) or [''])[0]
    asked = {(k.removesuffix('requirements').rstrip('_'), name(o)) for k,v in cfg['DEFAULT'].items() if k.endswith('requirements') for o in v.split('\n') if o}
    assert asked == {(extra(o), name(o)) for o in requires('rsna_ich')}

def test_the_command_is_installed(): assert entry_points(group='console_scripts')['rsna_ich'].value == 'rsna_ich.cli:main'

def test_readme_is_up_to_date(): subprocess.run([sys.executable, 'tools/readme.py', '--check'], cwd=root, check=True)

modules = sorted((root/'rsna_ich').glob('*.py'))

@pytest.mark.parametrize('path', modules, ids=lambda p: p.name)
def test_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = {a.name.split('.')[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names |= {n.module.split('.')[0] for n in froms if [o.name for o in n.names] != ['Parallel', 'delayed']} # joblib's workers, not its files
    assert not names & {'pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {'torch.load', 'load_learner', 'pd.read_pickle', 'np.load', 'eval', 'exec'}

def test_modules_import_only_rooms_above_them():
    order = [p.stem.split('_', 1)[1] for p in sorted((root/'nbs').glob('[0-9]*.ipynb'))]
    for name in order:
        tree = ast.parse((root/'rsna_ich'/f'{name}.py').read_text(encoding='utf-8'))
        used = {n.module.split('.')[-1] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and (n.level or n.module.startswith('rsna_ich.'))}
        below = [u for u in used if u in order and order.index(u) >= order.index(name)]
        assert not below, f'{name} imports {below}'

def test_all_offers_every_room():
    text = (root/'rsna_ich'/'all.py').read_text().split('\n', 1)[1]
    rooms = {p.stem.split('_', 1)[1] for p in (root/'nbs').glob('[0-9]*.ipynb')} - {'cli'}
    assert rooms == set(re.findall(r'from rsna_ich\.(\w+) import', text))

def test_no_two_rooms_export_the_same_name():
    seen = {}
    for path in sorted((root/'rsna_ich').glob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if path.stem == 'cli' or not isinstance(node, ast.Assign) or getattr(node.targets[0], 'id', '') != '__all__': continue
            for name in ast.literal_eval(node.value): seen.setdefault(name, []).append(path.stem)
    assert {k:v for k,v in seen.items() if len(v) > 1} == {}
