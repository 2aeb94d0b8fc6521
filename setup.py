"Reads settings.ini, the one source of the package's metadata, and the version from rsna_ich/__init__.py"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.optionxform = str
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
name = cfg['lib_name']
version = re.search(r'^__version__ = "(.+)"', (here/name/'__init__.py').read_text(encoding='utf-8'), re.M)[1]
EXTRAS = 'codecs dev bench offline'.split()

def lines(key): return [o for o in cfg.get(key, '').splitlines() if o.strip()]

def pairs(key): return dict([part.strip() for part in o.split('=', 1)] for o in lines(key))

setup( # chkstyle: ignore-node
    name=name,
    version=version,
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    license_expression=cfg['license'],
    license_files=cfg['license_files'].split(),
    author=cfg['author'],
    classifiers=lines('classifiers'),
    project_urls=pairs('project_urls'),
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']}",
    install_requires=lines('requirements'),
    extras_require={o:lines(f'{o}_requirements') for o in EXTRAS},
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=[f'{name}={name}._modidx:d']),
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name:['py.typed', '*.pyi', 'models/*/*', 'report/assets/*', 'starter/*.md'], f'{name}.*':['*.pyi']},
    include_package_data=True,
    zip_safe=False)
