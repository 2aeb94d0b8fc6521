"Fixtures: the real slices, where they are, and small phantom sets that several tests share"
import os, sys
from pathlib import Path
import pytest

@pytest.fixture(scope='session')
def real():
    "The folder of real data, or a skip"
    path = Path(os.environ.get('RSNA_ICH_DATA', Path(__file__).resolve().parents[2]/'shared'/'data'))
    if not (path/'rsna'/'dicom').is_dir(): pytest.skip(f'no real data at {path}; set RSNA_ICH_DATA')
    return path/'rsna'

@pytest.fixture(scope='session')
def heads(tmp_path_factory):
    "Six phantom studies of 64-pixel slices, as `write_phantom` leaves them"
    from rsna_ich.phantom.files import write_phantom
    root = tmp_path_factory.mktemp('heads')
    write_phantom(root, studies=6, size=64, seed=11)
    return root

@pytest.fixture(autouse=True)
def no_figures_left():
    "Close what a test drew"
    yield
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')
