"""Links of the pages lead to files, and names in docs/architecture.md are those of the code."""

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'docs').glob('*.ipynb'))
PAGES += sorted((ROOT / 'audiocodec').rglob('*.md'))  # cards of models
# names of models that look like paths
MODELS = {
    f'audiocodec/{path.stem}' for path in (ROOT / 'audiocodec/models/shipped').glob('*.safetensors')
}
ARCHITECTURE = ROOT / 'docs/architecture.md'
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
# a link, then one or more names in backticks, separated by commas
NAMED = re.compile(LINK.pattern + r'((?:,?\s+`[^`]+`)+)')


def prose(page):
    """Text of a page without its blocks of code."""
    text = page.read_text(encoding='utf-8')
    if page.suffix == '.ipynb':
        cells = [cell for cell in json.loads(text)['cells'] if cell['cell_type'] == 'markdown']
        text = '\n\n'.join(''.join(cell['source']) for cell in cells)
    return re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    wrong = []
    for link in LINK.findall(prose(page)):
        if re.match(r'\w+://', link):
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_paths_in_backticks_exist(page):
    pattern = r'`((?:tests|scripts|docs|dataset|audiocodec)/[\w./-]+)`'
    paths = set(re.findall(pattern, prose(page))) - MODELS
    assert [path for path in paths if not (ROOT / path).exists()] == []


@lru_cache
def definitions(path):
    """Names that a module defines: functions, classes, constants, and `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        found |= names_of(node)
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            found |= {f'{node.name}.{name}' for name in names_of(part)}
    return found


def names_of(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = getattr(node, 'targets', [getattr(node, 'target', None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_names_after_a_link_are_in_that_file():
    named = NAMED.findall(prose(ARCHITECTURE))
    assert len(named) > 50
    wrong = []
    for link, names in named:
        known = definitions((ARCHITECTURE.parent / link).resolve())
        wrong += [(link, name) for name in re.findall(r'`([^`]+)`', names) if name not in known]
    assert wrong == []


def test_methods_named_without_a_link_exist():
    text = prose(ARCHITECTURE)
    files = {(ARCHITECTURE.parent / link).resolve() for link in LINK.findall(text)}
    known = set().union(*(definitions(path) for path in files if path.suffix == '.py'))
    methods = set(re.findall(r'`([A-Z]\w+\.\w+)`', text))
    assert methods - known == set()


def test_every_folder_of_the_package_is_described():
    text = prose(ARCHITECTURE)
    folders = {path.parent for path in (ROOT / 'audiocodec').rglob('__init__.py')}
    links = {(ARCHITECTURE.parent / link).resolve() for link in LINK.findall(text)}
    described = folders & links
    parts = {folder for folder in folders if folder.parent.name == 'adversarial'}
    assert folders - described - parts - {ROOT / 'audiocodec'} == set()
