"The whole report: on phantoms, on the real slices, on the real labels and headers, and in a browser"
import html, json, re, subprocess, sys
import pandas as pd, pytest
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.core.messages import RESEARCH_ONLY
from rsna_ich.dicom.header_files import save_headers
from rsna_ich.dicom.scanning import header_table, scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.stats import pixel_stats
from rsna_ich.eda.report import eda
from test_cli import run
from test_viewer import browse, chromium

SECTIONS = ['labels', 'attributes', 'pixels', 'images', 'steps', 'split']
# waits for the viewer, then changes slice and window, and tells what the page has done
_LOOK = '''<script>(async()=>{const errors=[],hold=document.body.appendChild(document.createElement('iframe'));hold.contentDocument.open();addEventListener('error',e=>errors.push(e.message));addEventListener('unhandledrejection',e=>errors.push(''+e.reason))
const v=document.querySelector('.viewer'),c=v.querySelector('canvas'),seen=[],tell=async()=>{for(let k=0;k<3000&&(c.dataset.shown===seen.at(-1)||!c.dataset.shown);k++)await new Promise(requestAnimationFrame);seen.push(c.dataset.shown)}
await tell();const s=v.querySelector('[type=range]');s.value=0;s.dispatchEvent(new Event('input',{bubbles:true}));await tell();for(const b of [...v.querySelectorAll('button')].slice(1)){b.click();await tell()}
const pre=document.createElement('pre');pre.id='result';pre.textContent=JSON.stringify({seen,errors,anchors:[...document.querySelectorAll('nav a')].map(a=>!!document.querySelector(a.getAttribute('href'))),wide:document.documentElement.scrollWidth-innerWidth,
fetched:performance.getEntriesByType('resource').map(e=>e.name).filter(e=>!e.startsWith('data:'))});document.body.append(pre);hold.contentDocument.close()})()</script>'''

def own(page):
    "What in a page points elsewhere"
    return re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\((?!#|data:)[^)]*\)|@import', page)

def looked_at(report, tmp):
    "What a browser makes of a report"
    page = tmp/'looked.html'
    page.write_text(report.read_text(encoding='utf-8').replace('</body>', _LOOK + '</body>'), encoding='utf-8')
    out,console = browse(page, tmp/'profile', '--dump-dom')
    found = re.search(r'<pre id="result">(.*?)</pre>', out, re.S)
    assert found, 'the page did not finish: ' + '\n'.join(console)
    return json.loads(html.unescape(found[1])), console

def check_in_browser(report, tmp):
    if chromium is None: pytest.skip('no Chromium on this machine')
    res,console = looked_at(report, tmp)
    assert (console, res['errors'], res['fetched']) == ([], [], []) and all(res['anchors']) and len(res['anchors']) == len(SECTIONS) and res['wide'] <= 0
    shown = [o.split(',') for o in res['seen']]
    assert shown[1][0] == '0' != shown[0][0] and len({tuple(o[1:]) for o in shown}) == 4 # the slider moves, and the presets differ

@pytest.fixture(scope='module')
def phantom(heads, tmp_path_factory):
    "The report of six phantom studies, by the command line, from a store"
    root = tmp_path_factory.mktemp('eda')
    run('scan', heads/'dicom', '--out', root/'h.parquet')
    run('prepare', root/'h.parquet', '--size', 32, '--out', root/'store')
    out,err = run('eda', root/'store', '--labels', heads/'labels.csv', '--test', root/'h.parquet', '--out', root/'eda', '--images', 2, '--folds', 3)
    return root, err

def test_a_phantom_has_every_section(phantom, heads):
    root,err = phantom
    res,page = json.loads((root/'eda'/'eda.json').read_text()),(root/'eda'/'report.html').read_text(encoding='utf-8')
    assert [k for k in res if k in SECTIONS] == SECTIONS and list(res['seconds']) == SECTIONS and f"{len(res['findings'])} findings" in err
    assert RESEARCH_ONLY in page and not own(page)
    assert any(o['topic'] == 'patient in training and test' for o in res['findings']) # it was compared with itself
    assert res['labels']['labels']['any']['positive'] == int(read_labels(heads/'labels.csv')['any'].sum())

def test_a_phantom_in_a_browser(phantom, tmp_path): check_in_browser(phantom[0]/'eda'/'report.html', tmp_path)

def test_the_real_slices_in_a_browser(real, tmp_path):
    headers,labels = pixel_stats(scan(real/'dicom')),read_labels(real/'labels.csv')
    res = eda(tmp_path/'eda', headers, labels)
    assert list(res['seconds']) == SECTIONS and res['labels']['labels']['any']['positive'] == 53
    assert (tmp_path/'eda'/'report.html').stat().st_size < 15e6
    check_in_browser(tmp_path/'eda'/'report.html', tmp_path)

def test_the_real_labels_through_the_command(real, tmp_path):
    subprocess.run([sys.executable, real/'make_kaggle_csv.py', tmp_path/'train.csv'], check=True)
    run('eda', '--labels', tmp_path/'train.csv', '--out', tmp_path/'eda')
    n = json.loads((tmp_path/'eda'/'eda.json').read_text())['labels']
    assert n['images'] == 674_258 and n['oddities']['repeated_lines'] == 24 and n['subtypes_per_image'] == [577_155, 67_969, 22_587, 5_642, 885, 20]
    assert [n['labels'][l]['positive'] for l in LABELS] == [97_103, 2_761, 32_564, 23_766, 32_122, 42_496]
    assert round(n['phi_pairs'][0]['phi'], 3) == .318

def test_the_real_headers_through_the_command(real, tmp_path):
    run('eda', real/'stage_1_test_headers.csv.gz', '--out', tmp_path/'eda')
    n = json.loads((tmp_path/'eda'/'eda.json').read_text())
    assert 'labels' not in n and (n['attributes']['patients'], n['attributes']['series']) == (2144, 2214)

def test_names_from_the_data_are_escaped(heads, tmp_path):
    headers = scan(heads/'dicom').head(40)
    headers.attrs['root'] = str(heads/'dicom')
    evil = '<script>alert(1)</script>'
    headers['photometric'] = evil
    headers.loc[3, 'error'] = evil
    eda(tmp_path, headers, images=0)
    assert evil not in (tmp_path/'report.html').read_text(encoding='utf-8')

def test_mistakes_are_told(heads, tmp_path):
    headers,labels = scan(heads/'dicom'),read_labels(heads/'labels.csv')
    with pytest.raises(DataError, match='nothing to look at'): eda(tmp_path/'x')
    with pytest.raises(DataError, match='no file has a label'): eda(tmp_path/'x', headers, labels.assign(sop=labels.sop + 'x'))
    assert not (tmp_path/'x').exists()
    _,err = run('eda', '--folds', 1, code=1)
    assert '--folds must be 2 or more' in err
    save_headers(headers, tmp_path/'h.parquet')
    assert header_table(tmp_path/'h.parquet', '/elsewhere').attrs['root'] == '/elsewhere'

def test_files_that_have_gone(heads, tmp_path):
    "Without its files a table still makes a report, of what it knows"
    headers = scan(heads/'dicom')
    headers.attrs['root'] = str(tmp_path/'gone')
    assert list(eda(tmp_path/'eda', headers, read_labels(heads/'labels.csv'), folds=3)['seconds']) == ['labels', 'attributes', 'split']
    assert pd.Series(json.loads((tmp_path/'eda'/'eda.json').read_text())['findings']).map(lambda o: o['n'] >= 0).all()
