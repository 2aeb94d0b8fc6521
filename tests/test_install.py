"Install, run, install anew in the other way, run, uninstall: the command works from every folder and nothing is left in the installation"
import os, shutil, subprocess, sys, sysconfig, venv
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build')

class Installation:
    "A new environment that sees this one's packages, and a copy of the project"
    def __init__(self, path):
        self.path,self.source,self.home = path,path/'clone',path/'home'
        self.home.mkdir()
        venv.create(path/'venv', with_pip=False)
        site = self.run('-c', "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip()
        self.site = Path(site)
        self.site.joinpath('above.pth').write_text(sysconfig.get_paths()['purelib'] + '\n') # its own .pth files, such as an editable installation's, don't count there
        self.empty = self.files()
        shutil.copytree(root/'rsna_ich', self.source/'rsna_ich', ignore=NOT_SOURCE)
        for o in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'): shutil.copy(root/o, self.source)
    def run(self, *args, before=(), check=True, **env):
        "Python of the new environment, in the user's home"
        names = {k:v for k,v in os.environ.items() if k not in ('PYTHONPATH', 'NUMBA_CACHE_DIR')}
        env = names | dict(HOME=str(self.home), XDG_CACHE_HOME=str(self.home/'cache'), PYTHONDONTWRITEBYTECODE='') | env
        r = subprocess.run([*before, self.path/'venv'/'bin'/'python', *map(str, args)], cwd=self.home, env=env, capture_output=True, text=True)
        assert not check or r.returncode == 0, r.stdout + r.stderr
        return r
    def pip(self, *args):
        r = subprocess.run([sys.executable, '-m', 'pip', '--python', self.path/'venv'/'bin'/'python', '-q', *map(str, args)], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
    def install(self, *how): self.pip('install', '--no-deps', '--no-build-isolation', *how, self.source)
    def files(self): return sorted(o.relative_to(self.site).as_posix() for o in self.site.rglob('*') if o.is_file())
    def where(self): return self.run('-c', 'import rsna_ich; rsna_ich.__version__; print(rsna_ich.__file__)').stdout

@pytest.fixture(scope='module')
def slice_file(tmp_path_factory):
    from rsna_ich.phantom.files import write_phantom
    folder = tmp_path_factory.mktemp('slice')
    write_phantom(folder, studies=1, size=64)
    return sorted((folder/'dicom').iterdir())[0]

@pytest.fixture
def there(tmp_path): return Installation(tmp_path)

def test_installed_then_editable(there, slice_file):
    there.install()
    fresh = there.files()
    command = there.path/'venv'/'bin'/'rsna_ich'
    assert 'any' in there.run(command, 'predict', slice_file).stdout
    assert there.files() == fresh and list((there.home/'cache'/'rsna_ich'/'loops').rglob('*.nbi'))
    there.install('-e')
    assert 'clone' in there.where()
    assert 'any' in there.run(command, 'predict', slice_file).stdout
    there.pip('uninstall', '-y', 'rsna_ich')
    assert there.files() == there.empty and not (there.site/'rsna_ich').exists()

def test_editable_then_installed(there, slice_file):
    there.install('-e')
    before = sorted(o for o in there.source.rglob('*') if '__pycache__' not in o.parts)
    command = there.path/'venv'/'bin'/'rsna_ich'
    assert 'any' in there.run(command, 'predict', slice_file).stdout
    assert sorted(o for o in there.source.rglob('*') if '__pycache__' not in o.parts) == before and not list(there.source.rglob('*.nb[ic]'))
    there.install()
    assert str(there.site) in there.where()
    there.pip('uninstall', '-y', 'rsna_ich')
    assert there.files() == there.empty and not (there.site/'rsna_ich').exists()

def without_powers():
    "What to put before a command so that file permissions hold for root as well"
    return ['setpriv', '--bounding-set', '-all'] if os.geteuid() == 0 else []

@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which('setpriv'), reason='root writes everywhere, and there is no setpriv')
def test_read_only_and_nowhere_to_keep_anything(there, slice_file):
    there.install()
    (there.home/'out').mkdir()
    closed = [there.path/'venv', *(o for o in (there.path/'venv').rglob('*') if not o.is_symlink()), there.home]
    modes = {o:o.stat().st_mode for o in closed}
    for o in closed: o.chmod(modes[o] & ~0o222)
    command,out = there.path/'venv'/'bin'/'rsna_ich',there.home/'out'/'p.csv'
    try:
        tried = there.run('-c', f'open({str(there.site/"new")!r}, "w")', before=without_powers(), check=False)
        assert 'PermissionError' in tried.stderr
        assert 'any' in there.run(command, 'predict', slice_file, '--out', out, before=without_powers()).stdout
    finally:
        for o in closed: o.chmod(modes[o])
    assert out.is_file() and not (there.home/'cache').exists()
