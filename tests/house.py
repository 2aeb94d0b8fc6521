"""The structure of the package as it is written: wings, modules, imports, names, lengths. `python tests/house.py` prints the table.

Nothing is imported: all is read from the sources, so that what is wrong with a module can't hide it."""
import ast, re, sys
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = 'core dicom report vision data learn answer eda phantom starter'.split() # a wing imports only from itself and from those before it
LINE,FUNCTION = 140,50 # characters and lines at most

Import = namedtuple('Import', 'user module name') # `user` is the module that imports `name` from `module`, both told from the package
Function = namedtuple('Function', 'module name lines')

def package_modules(root=ROOT):
    "Path of each module, by its name told from the package, such as 'dicom.files'"
    package = Path(root)/'rsna_ich'
    paths = [o for o in package.rglob('*.py') if o.name not in ('__init__.py', '_modidx.py')]
    return {'.'.join(o.relative_to(package).with_suffix('').parts):o for o in sorted(paths)}

def wing_of(module): return module.split('.')[0] if '.' in module else ''

def parse(path): return ast.parse(path.read_text(encoding='utf-8'))

def own_module(node, module):
    "The module of the package that a `from` import names, or None"
    if not node.level: return node.module.removeprefix('rsna_ich').strip('.') if (node.module or '').split('.')[0] == 'rsna_ich' else None
    parts = module.split('.')[:-node.level]
    return '.'.join([*parts, *(node.module or '').split('.')]).strip('.')

def imports_of(module, tree):
    "What a module imports from the package, at its top and within functions"
    res = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        source = own_module(node, module)
        if source is not None: res += [Import(module, source, o.name) for o in node.names]
    return res

def all_imports(modules): return [o for name,path in modules.items() for o in imports_of(name, parse(path))]

def from_later_wings(imports):
    "Imports from a wing that comes later; the command line and `all` come after all wings"
    place = {o:i for i,o in enumerate(WINGS)}
    last = len(WINGS)
    return [o for o in imports if place.get(wing_of(o.module) or o.module, last if o.module in ('cli', 'all') else -1) > place.get(wing_of(o.user), last)]

def unknown_wings(modules): return sorted({wing_of(o) for o in modules} - {*WINGS, ''})

def private_imports(imports): return [o for o in imports if o.name.startswith('_') and not o.name.startswith('__')]

def circles(modules, imports):
    "Modules that import each other, round about"
    users = {o:{i.module for i in imports if i.user == o and i.module in modules} for o in modules}
    found = []
    def visit(module, way):
        if module in way: found.append(way[way.index(module):] + [module])
        elif module not in done:
            for o in sorted(users[module]): visit(o, way + [module])
            done.add(module)
    done = set()
    for o in sorted(modules): visit(o, [])
    return found

def notebooks(root=ROOT):
    "Number and module of each notebook that makes a module, in folders of the wings' names"
    res = []
    for path in sorted((Path(root)/'nbs').rglob('*.ipynb')):
        made = re.search(r'#\| default_exp ([\w.]+)', path.read_text(encoding='utf-8'))
        if made: res.append((path.relative_to(Path(root)/'nbs').as_posix(), made[1]))
    return res

def number_of(path):
    found = re.fullmatch(r'(?:.*/)?(\d\d)_\w+\.ipynb', path)
    return int(found[1]) if found else None

def badly_filed(books):
    "Notebooks that aren't in the folder of their wing under their module's name"
    return [(path,module) for path,module in books if path != 'cli.ipynb' and not re.fullmatch(rf'{wing_of(module)}/\d\d_{module.split(".")[-1]}\.ipynb', path)]

def shared_numbers(books):
    seen = {}
    for path,module in books: seen.setdefault((wing_of(module), number_of(path)), []).append(path)
    return [v for v in seen.values() if len(v) > 1]

def against_their_numbers(books, imports):
    "Imports within a wing from a notebook of a higher number"
    number = {module:number_of(path) for path,module in books}
    inside = [o for o in imports if wing_of(o.user) and wing_of(o.user) == wing_of(o.module) and {o.user, o.module} <= set(number)]
    return [o for o in inside if number[o.module] >= number[o.user]]

def exported(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__': return ast.literal_eval(node.value)
    return []

def functions(module, tree):
    "Every function and method with its length in lines, decorators and docments counted"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(o.lineno for o in node.decorator_list)])
            yield Function(module, node.name, node.end_lineno - first + 1)

def long_lines(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    generated = next((i for i,o in enumerate(lines) if o.startswith('__all__')), 0) # nbdev writes what stands before
    return [i+1 for i,o in enumerate(lines) if len(o) > LINE and i > generated and not o.startswith('# %%')]

def named_lambdas(tree):
    assigned = [o for o in ast.walk(tree) if isinstance(o, ast.Assign) and isinstance(o.value, ast.Lambda)]
    return [o for o in assigned if isinstance(o.targets[0], ast.Name)]

def several_at_once(tree):
    "Assignments of a tuple to a tuple: `a,b = x,y`"
    return [o for o in ast.walk(tree) if isinstance(o, ast.Assign) and isinstance(o.targets[0], ast.Tuple) and isinstance(o.value, ast.Tuple)]

def patches_of(tree):
    "Names of the methods that a module gives to classes with fastcore's `patch`"
    def is_patch(o): return getattr(getattr(o, 'func', o), 'id', '') == 'patch'
    return {o.name for o in tree.body if isinstance(o, ast.FunctionDef) and any(is_patch(d) for d in o.decorator_list)}

def needs(module, imports):
    "All modules that importing `module` imports, itself included"
    direct = {}
    for o in imports: direct.setdefault(o.user, set()).update({o.module, f'{o.module}.{o.name}'})
    found,left = set(),[module]
    while left:
        name = left.pop()
        if name in found: continue
        found.add(name)
        left += direct.get(name, ())
    return found

COMMON = set('close fit stop predict tta show save read encodes hu mask pixels export restore answer'.split()) # names that other classes have as well

def missing_patches(modules, imports):
    "Uses of a patched method in modules that don't import the module that patches it: (user, method)"
    trees = {k:parse(v) for k,v in modules.items()}
    where = {}
    for k,t in trees.items():
        for name in patches_of(t) - COMMON: where.setdefault(name, set()).add(k)
    res = []
    for k,t in trees.items():
        used = {o.attr for o in ast.walk(t) if isinstance(o, ast.Attribute)} & set(where)
        if used: res += [(k, name) for name in sorted(used) if not where[name] & needs(k, imports)]
    return res

def wing_table(root=ROOT):
    "One row a wing: modules, lines, longest function, exported names, and what should be 0"
    modules = package_modules(root)
    imports = all_imports(modules)
    later,private = from_later_wings(imports),private_imports(imports)
    rows = []
    for wing in [*WINGS, '']:
        mine = {k:v for k,v in modules.items() if wing_of(k) == wing}
        trees = {k:parse(v) for k,v in mine.items()}
        longest = max((f for k,t in trees.items() for f in functions(k, t)), key=lambda f: f.lines, default=None)
        rows.append([wing or '(top)', len(mine), sum(len(v.read_text(encoding='utf-8').splitlines()) for v in mine.values()),
            f'{longest.lines} {longest.module}.{longest.name}' if longest else '', sum(len(exported(t)) for t in trees.values()),
            sum(wing_of(o.user) == wing for o in later), sum(wing_of(o.user) == wing for o in private), sum(len(long_lines(v)) for v in mine.values()),
            sum(len(several_at_once(t)) for t in trees.values()), sum(len(named_lambdas(t)) for t in trees.values())])
    return rows

HEAD = ['wing', 'modules', 'lines', 'longest function', 'exported names', 'imports from later wings', 'private imports', f'lines over {LINE}', 'tuple assignments', 'named lambdas']

def main():
    print('| ' + ' | '.join(HEAD) + ' |\n|' + ' --- |'*len(HEAD))
    for row in wing_table(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT): print('| ' + ' | '.join(map(str, row)) + ' |')

if __name__ == '__main__': main()
