"A short run of `tests.fuzz`, and the conformance files"
import json, subprocess, sys
from pathlib import Path

def _last_line(*args):
    r = subprocess.run([sys.executable, '-m', *args], cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stderr[-3000:]
    return json.loads(r.stdout.splitlines()[-1])

def test_mutants():
    res = _last_line('tests.fuzz', '--mutants', '3000', '--seed', '7')['results']
    assert [r['syntax'] for r in res] == 'explicit implicit rle j2k jpegls jpegll deflated bare enhanced'.split()
    for r in res:
        bad = {k:r[k] for k in 'silent escape leak crash hang'.split() if r[k]}
        assert not bad, (r['syntax'], bad, r['notes'])
        assert min(r[k] for k in ('same', 'refused', 'pixels')) > 0 and sum(r[k] for k in 'same refused flagged pixels plausible'.split()) == 3000
        assert r['parent_mb'] + r['decoder_mb'] < 1024

def test_files_that_come_with_pydicom():
    res = _last_line('tests.fuzz.conformance')
    assert res['read_otherwise'] == 0 and res['read_as_pydicom'] + sum(res['refused'].values()) == res['files']
    assert res['read_as_pydicom'] > 50
