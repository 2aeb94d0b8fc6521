"The project's own promises: one source of metadata, one version, a README that is up to date, no pickle"
import ast, re, shutil, subprocess, sys, tarfile, tomllib, zipfile
from configparser import ConfigParser
from importlib.metadata import entry_points, requires, version
from pathlib import Path
import pytest, rsna_ich

root = Path(__file__).resolve().parents[1]
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')

def name(requirement): return re.match(r'[\w.-]+', requirement)[0].lower()

def test_metadata_has_one_source():
    pyproject = tomllib.loads((root/'pyproject.toml').read_text())
    assert 'project' not in pyproject
    assert 'version' not in cfg['DEFAULT'] and version('rsna_ich') == rsna_ich.__version__
    extra = lambda o: (re.findall(r'extra == "(\w+)"', o) or [''])[0]
    asked = {(k.removesuffix('requirements').rstrip('_'), name(o)) for k,v in cfg['DEFAULT'].items() if k.endswith('requirements') for o in v.split('\n') if o}
    assert asked == {(extra(o), name(o)) for o in requires('rsna_ich')}

def test_the_command_is_installed(): assert entry_points(group='console_scripts')['rsna_ich'].value == 'rsna_ich.cli:main'

def test_readme_is_up_to_date(): subprocess.run([sys.executable, 'tools/readme.py', '--check'], cwd=root, check=True)

modules = sorted((root/'rsna_ich').rglob('*.py'))

@pytest.mark.parametrize('path', modules, ids=lambda p: p.relative_to(root/'rsna_ich').as_posix())
def test_nothing_is_unpickled(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = {a.name.split('.')[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names |= {n.module.split('.')[0] for n in froms if [o.name for o in n.names] != ['Parallel', 'delayed']} # joblib's workers, not its files
    assert not names & {'pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {'torch.load', 'load_learner', 'pd.read_pickle', 'np.load', 'eval', 'exec'}

# What is built

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "Names in a wheel and in an sdist of the project"
    out = tmp_path_factory.mktemp('built')
    keep = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build', '.git', '.ipynb_checkpoints', '.pytest_cache', '.hypothesis')
    shutil.copytree(root, out/'clone', ignore=keep)
    for what in ('bdist_wheel', 'sdist'):
        r = subprocess.run([sys.executable, 'setup.py', '-q', what, '-d', out], cwd=out/'clone', capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
    wheel,sdist = next(out.glob('*.whl')),next(out.glob('*.tar.gz'))
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        metadata = z.read(next(o for o in names if o.endswith('/METADATA'))).decode()
    with tarfile.open(sdist) as t: packed = [o.partition('/')[2] for o in t.getnames()]
    return names, metadata, packed

def test_the_wheel_holds_the_package_and_nothing_else(built):
    names,_,_ = built
    files = {o.relative_to(root).as_posix() for o in (root/'rsna_ich').rglob('*') if o.is_file() and '__pycache__' not in o.parts}
    assert {o for o in names if '.dist-info/' not in o} == files
    assert {'rsna_ich/py.typed', 'rsna_ich/models/starter/LICENSE', 'rsna_ich/models/starter/model.safetensors', 'rsna_ich/dicom/__init__.pyi'} <= files
    assert any(o.startswith('rsna_ich/report/assets/') for o in files)

def test_the_metadata_says_on_what_terms(built):
    _,metadata,_ = built
    assert 'License-Expression: Apache-2.0 AND LicenseRef-' in metadata and metadata.count('License-File: ') == 2
    assert 'Classifier: Programming Language :: Python :: 3.13' in metadata and 'Project-URL: ' in metadata and 'Provides-Extra: codecs' in metadata

def test_the_sdist_holds_the_notebooks(built):
    _,_,packed = built
    for folder in ('nbs', 'tests', 'tools', 'benchmarks'):
        there = {o.relative_to(root).as_posix() for o in (root/folder).rglob('*') if o.suffix in ('.ipynb', '.py') and '.ipynb_checkpoints' not in o.parts}
        assert there <= set(packed), folder

def test_all_that_is_imported_is_required():
    "Distributions of all third-party modules that the package imports; rle comes with the codecs"
    needed = {name(o) for o in cfg['DEFAULT']['requirements'].split('\n') if o}
    known = dict(PIL='pillow', skimage='scikit-image', sklearn='scikit-learn', plum='plum-dispatch', lazy_loader='lazy-loader')
    found = set()
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import): found |= {o.name.split('.')[0] for o in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.split('.')[0])
    third = {known.get(o, o) for o in found - set(sys.stdlib_module_names) - {'rsna_ich', 'rle'}}
    assert third - needed == set()

def test_the_oldest_allowed_versions_are_written_down():
    "tests/oldest.txt pins the lower bound of each requirement"
    pins = dict(o.strip().lower().split('==') for o in (root/'tests'/'oldest.txt').read_text().splitlines() if o and not o.startswith('#'))
    for o in cfg['DEFAULT']['requirements'].split('\n'):
        if not o: continue
        lower = re.search(r'>=([\d.]+)', o)[1].rstrip('.0')
        assert pins[name(o)].startswith(lower), o
