"Every notebook runs from top to bottom, each in a process of its own"
import subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
notebooks = sorted(p.relative_to(root).as_posix() for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

@pytest.mark.parametrize('path', notebooks)
def test_notebook(path):
    code = f'from nbdev.test import test_nb; ok,_ = test_nb({str(root/path)!r}, basepath={str(root)!r}); raise SystemExit(not ok)'
    r = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stderr[-4000:]
