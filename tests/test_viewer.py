"The viewer in a real browser, from a file: each window shows what Python computes, each control works, nothing is fetched and nothing complained of"
import html, json, re, shutil, subprocess
import numpy as np, pytest
from rsna_ich.core.windows import ct_windows
from rsna_ich.dicom.hounsfield import window_hu
from rsna_ich.report.page import html_page
from rsna_ich.report.viewer import PRESETS, VIEWER_CSS, slice_viewer

chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(chromium is None, reason='no Chromium on this machine')
FLAGS = '--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage'.split()

# the open frame keeps the page loading, and so the browser waiting, until all is done
_DRIVE = '''<script>(async()=>{const seen=[],errors=[],hold=document.body.appendChild(document.createElement('iframe'));hold.contentDocument.open();addEventListener('error',e=>errors.push(e.message));addEventListener('unhandledrejection',e=>errors.push(''+e.reason))
const views=[...document.querySelectorAll('.viewer')],frame=()=>new Promise(requestAnimationFrame)
const copy=c=>{const x=new OffscreenCanvas(c.width,c.height).getContext('2d',{willReadFrequently:true});x.drawImage(c,0,0);return x}
const state=v=>{const q=s=>v.querySelector(s),c=q('canvas');return{slice:+q('[type=range]').value,width:q('.width').value,level:q('.level').value,text:q('output').textContent,alt:c.getAttribute('aria-label'),
pressed:[...v.querySelectorAll('button')].filter(b=>b.getAttribute('aria-pressed')==='true').map(b=>b.textContent),at:[...v.querySelectorAll('.strip i')].findIndex(i=>i.classList.contains('at')),
shown:c.dataset.shown,grey:[...copy(c).getImageData(0,0,c.width,c.height).data].filter((_,k)=>k%4===0)}}
const settled=async(v,most)=>{const q=s=>v.querySelector(s);for(let k=0;k<most;k++){await frame();if(q('canvas').dataset.shown===[q('[type=range]').value,q('.width').value,q('.level').value].join())return}}
const tell=async(what,i=0,most=3000)=>{await settled(views[i],most);seen.push([what,i,state(views[i])])}
const key=(k,i=0)=>views[i].querySelector('canvas').dispatchEvent(new KeyboardEvent('keydown',{key:k,bubbles:true,cancelable:true}))
const type=(s,value)=>{const f=views[0].querySelector(s);f.value=value;f.dispatchEvent(new Event('input',{bubbles:true}))}
const wheel=d=>!views[0].querySelector('canvas').dispatchEvent(new WheelEvent('wheel',{deltaY:d,bubbles:true,cancelable:true}))
for(let i=0;i<views.length;i++)await tell('start',i)
for(const b of views[0].querySelectorAll('button')){b.click();await tell(b.textContent)}
type('.width','400');type('.level','-50');await tell('typed');type('.width','');await tell('empty',0,30);type('.width','0');await tell('zero',0,30);type('.width','254')
type('[type=range]','0');await tell('slider');key('ArrowUp');await tell('ArrowUp');key('End');await tell('End');key('PageDown');await tell('PageDown');key('Home');await tell('Home')
const kept=[wheel(-1),wheel(1),wheel(1)];await tell('wheel');key('End',1);await tell('other',1);await tell('unmoved')
const pre=document.createElement('pre');pre.id='result';pre.textContent=JSON.stringify({seen,errors,kept,fetched:performance.getEntriesByType('resource').map(e=>e.name).filter(e=>!e.startsWith('data:'))});document.body.append(pre);hold.contentDocument.close()})()</script>'''

def browse(path, tmp, *flags):
    "What Chromium writes for the page at `path`, and what its console says"
    r = subprocess.run([chromium, *FLAGS, f'--user-data-dir={tmp}', '--enable-logging=stderr', *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr[-2000:]
    return r.stdout, re.findall(r'.*CONSOLE.*', r.stderr)

rng = np.random.default_rng(0)
hu = rng.integers(-200, 300, (9, 40, 48)).astype(np.int16)
hu[:,0,:2] = -32768,32767

@pytest.fixture(scope='module')
def result(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('browser')
    page = html_page('Two viewers', slice_viewer(hu, ['</script><b>subdural'] + ['']*8, name='"first"') + slice_viewer(hu[:3]), VIEWER_CSS)
    (tmp/'page.html').write_text(page.replace('</body>', _DRIVE + '</body>'))
    out,console = browse(tmp/'page.html', tmp/'profile', '--dump-dom')
    found = re.search(r'<pre id="result">(.*?)</pre>', out, re.S)
    assert found, 'the page did not finish: ' + '\n'.join(console)
    return json.loads(html.unescape(found[1])) | dict(console=console)

def test_nothing_is_fetched_and_nothing_complained_of(result): assert (result['errors'], result['fetched'], result['console']) == ([], [], [])

def test_every_picture_is_what_python_computes(result):
    for what,i,s in result['seen']:
        j,w,l = map(float, s['shown'].split(','))
        want = window_hu([hu, hu[:3]][i][int(j)], (w, l))*255
        assert np.abs(np.reshape(s['grey'], want.shape) - want).max() <= 1, what
    assert len({s['shown'] for _,_,s in result['seen']}) >= 9

def test_presets_and_fields_set_the_window(result):
    seen = {what:s for what,i,s in result['seen'] if i == 0}
    for k,name in PRESETS.items():
        w,l = ct_windows[name]
        assert (float(seen[k]['width']), float(seen[k]['level']), seen[k]['pressed']) == (w, l, [k])
        assert seen[k]['shown'].split(',')[1:] == [f'{w:g}', f'{l:g}']
    assert (seen['typed']['shown'], seen['typed']['pressed']) == ('4,400,-50', [])
    assert seen['empty']['shown'] == seen['zero']['shown'] == '4,400,-50', 'a field without a usable number changes nothing'

def test_slices_by_slider_keys_and_wheel(result):
    seen = {what:s for what,i,s in result['seen'] if i == 0}
    assert [seen[k]['slice'] for k in ('start', 'slider', 'ArrowUp', 'End', 'PageDown', 'Home', 'wheel')] == [4, 0, 1, 8, 3, 0, 0]
    assert all(s['at'] == s['slice'] and s['text'] == s['alt'] for _,_,s in result['seen'])
    assert seen['slider']['text'] == 'slice 1 of 9\n</script><b>subdural'
    assert result['kept'] == [True, True, False], 'at the end the wheel is the page\'s'

def test_viewers_do_not_clash(result):
    other = [s for what,i,s in result['seen'] if i == 1]
    assert [s['slice'] for s in other] == [1, 2] and other[-1]['width'] == '80'
    assert [s['slice'] for what,_,s in result['seen'] if what == 'unmoved'] == [0]
