"The structure holds: wings import only from wings before them, no circles, no private names of others, numbers that follow the imports, a small door. Each check is shown to see a planted fault"
import ast, json, subprocess, sys
import pytest, house

modules = house.package_modules()
imports = house.all_imports(modules)
books = house.notebooks()

def test_every_module_stands_in_a_wing():
    assert house.unknown_wings(modules) == []
    assert {o for o in modules if not house.wing_of(o)} == {'cli', 'all'}

def test_a_wing_imports_only_from_those_before_it(): assert house.from_later_wings(imports) == []

def test_no_circle(): assert house.circles(modules, imports) == []

def test_no_private_name_is_imported(): assert house.private_imports(imports) == []

def test_a_patched_method_is_there_where_it_is_used(): assert house.missing_patches(modules, imports) == []

def test_every_module_has_a_notebook_in_the_folder_of_its_wing():
    assert house.badly_filed(books) == []
    assert {module for _,module in books} == set(modules) - {'all'}

def test_notebooks_are_numbered_in_the_order_of_imports():
    assert house.shared_numbers(books) == []
    assert house.against_their_numbers(books, imports) == []

@pytest.mark.parametrize('name', sorted(modules))
def test_lines_and_functions_are_short(name):
    path = modules[name]
    tree = house.parse(path)
    assert house.long_lines(path) == []
    assert [f for f in house.functions(name, tree) if f.lines > house.FUNCTION] == []
    assert [ast.unparse(o) for o in house.named_lambdas(tree)] == []

# The door

def door_names():
    "Names that `from rsna_ich.all import *` gives beyond fastai's own"
    code = "import json, rsna_ich.all as a\nfrom importlib import import_module\n" \
        f"print(json.dumps({{w:import_module(f'rsna_ich.{{w}}').__all__ for w in {house.WINGS!r}}}))"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])

@pytest.fixture(scope='module')
def door(): return door_names()

MEANT_TO_REPLACE = {'load_model'} # fastai's unpickles; ours reads safetensors, and its docstring says so

MOST_NAMES = 150

def door_faults(door, theirs):
    "What is wrong with the names of the door by wing, beside the names `theirs` of fastai"
    names = [o for wing in door.values() for o in wing]
    twice = sorted({o for o in names if names.count(o) > 1})
    return dict(large=len(names) > MOST_NAMES, twice=twice, shadows=sorted(set(names) & theirs - MEANT_TO_REPLACE))

@pytest.fixture(scope='module')
def fastai_names():
    import fastai.vision.all as everything
    return {o for o in vars(everything) if not o.startswith('_')}

def test_the_door_is_small_and_shadows_nothing(door, fastai_names):
    assert not any(door_faults(door, fastai_names).values())
    assert sum(map(len, door.values())) > 100

def test_what_replaces_a_name_of_fastais_says_so(door, fastai_names):
    from rsna_ich.learn.saving import load_model
    assert {o for wing in door.values() for o in wing} & fastai_names == MEANT_TO_REPLACE and 'fastai' in load_model.__doc__

@pytest.mark.parametrize('fault,more', [('large', [f'name_{i}' for i in range(60)]), ('twice', ['scan']), ('shadows', ['Learner']), ('shadows', ['show_image'])])
def test_a_planted_fault_of_the_door_is_seen(door, fastai_names, fault, more):
    assert door_faults(door | dict(core=[*door['core'], *more]), fastai_names)[fault]

def test_what_the_door_offers_is_public_where_it_is_made(door):
    for wing,names in door.items():
        offered = {o for k,v in modules.items() if house.wing_of(k) == wing for o in house.exported(house.parse(v))}
        assert set(names) <= offered, set(names) - offered

def test_no_two_modules_export_the_same_name():
    seen = {}
    for name,path in modules.items():
        if name == 'cli': continue
        for o in house.exported(house.parse(path)): seen.setdefault(o, []).append(name)
    assert {k:v for k,v in seen.items() if len(v) > 1} == {}

def test_a_wing_does_not_load_what_is_not_asked_for():
    code = "import sys, rsna_ich.core, rsna_ich.dicom, rsna_ich.data, rsna_ich.learn, rsna_ich.answer\n" \
        "assert not {'torch', 'pandas', 'fastai', 'pydicom', 'numba'} & set(sys.modules)\n" \
        "from rsna_ich.dicom import scan\nassert not {'torch', 'fastai'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)

# Planted faults

def plant(root, files, books=()):
    "A package of `files` (text by module name) and notebooks (text by path)"
    for name,text in files.items():
        path = root/'rsna_ich'/(name.replace('.', '/') + '.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path,module in dict(books).items():
        path = root/'nbs'/path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"#| default_exp {module}"')
    modules = house.package_modules(root)
    return modules, house.all_imports(modules), house.notebooks(root)

SOUND = {'core.errors':'class E(Exception): pass', 'data.tables':'from ..core.errors import E', 'data.store':'from .tables import x\nfrom rsna_ich.core.errors import E'}
SOUND_BOOKS = {'core/00_errors.ipynb':'core.errors', 'data/00_tables.ipynb':'data.tables', 'data/01_store.ipynb':'data.store'}

def faults(modules, imports, books):
    seen = dict(wing=house.unknown_wings(modules), later=house.from_later_wings(imports), circle=house.circles(modules, imports))
    return seen | dict(private=house.private_imports(imports),
        filed=house.badly_filed(books), shared=house.shared_numbers(books), order=house.against_their_numbers(books, imports))

def test_a_sound_house_has_no_fault(tmp_path): assert not any(faults(*plant(tmp_path, SOUND, SOUND_BOOKS)).values())

@pytest.mark.parametrize('kind,files,books', [
    ('wing', {'misc.things':''}, {}),
    ('later', {'core.errors':'from rsna_ich.data.tables import x'}, {}),
    ('later', {'core.errors':'def f():\n    from ..data.tables import x'}, {}),
    ('later', {'core.errors':'from ..data import x'}, {}),
    ('later', {'core.errors':'from rsna_ich.all import x'}, {}),
    ('circle', {'data.tables':'from .store import x'}, {}),
    ('private', {'data.store':'from .tables import _x'}, {}),
    ('filed', {}, {'data/01_store.ipynb':'data.shop'}),
    ('filed', {}, {'core/02_store.ipynb':'data.store'}),
    ('shared', {}, {'data/01_tables.ipynb':'data.tables'}),
    ('order', {}, {'data/02_tables.ipynb':'data.tables'})])
def test_a_planted_fault_is_seen(tmp_path, kind, files, books):
    kept = {k:v for k,v in SOUND_BOOKS.items() if v not in dict(books).values() and k not in books}
    assert faults(*plant(tmp_path, SOUND | files, kept | books))[kind]

def test_a_missing_patch_is_seen(tmp_path):
    files = {'data.a':'@patch\ndef shrink(self:Path): pass', 'data.b':'def f(o): return o.shrink()', 'data.c':'from . import a\ndef f(o): return o.shrink()'}
    modules,imports,_ = plant(tmp_path, files)
    assert house.missing_patches(modules, imports) == [('data.b', 'shrink')]

def test_planted_lines_and_functions_are_seen(tmp_path):
    text = "__all__ = []\nf = lambda x: x\na,b = 1,2\ny = '" + 'x'*150 + "'\ndef g():\n" + '    pass\n'*60
    path = plant(tmp_path, {'core.long':text})[0]['core.long']
    tree = house.parse(path)
    assert house.long_lines(path) == [4] and [f.lines for f in house.functions('core.long', tree)] == [61]
    assert len(house.named_lambdas(tree)) == 1 and len(house.several_at_once(tree)) == 1
