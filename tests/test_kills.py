"A short run of `python -m tests.kills`: four kills, one in each stage"
import json, subprocess, sys
from pathlib import Path

def test_killed_runs_leave_nothing_corrupt():
    r = subprocess.run([sys.executable, '-m', 'tests.kills', '--kills', '4', '--seed', '1'], cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    res = json.loads(r.stdout.splitlines()[-1])
    assert res['kills'] == 4 and res['corrupt'] == 0 and res['same']
