"""Packages import only from lower layers; checked on the syntax trees, without importing."""

import ast
import collections
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'audiocodec'
# Subpackages by layer, the lowest first. A subpackage may import from itself and from lower layers.
LAYERS = [
    {'utils', 'kernels', 'dsp'},
    {'modules', 'optim'},
    {'quantization', 'losses', 'adversarial', 'metrics', 'data', 'run'},
    {'models'},
    {'evaluation', 'bitstream', 'tokens'},
    {'report'},
    {'recipe'},
    {'solvers'},
    {'train'},
    {'grid'},
    {'cli'},
    {'__main__'},
]
# Public modules whose code is in a higher layer; nothing in the package imports them.
FACADES = {'utils.export': 'models'}
# Subpackages and modules that may import a framework.
FRAMEWORKS = {
    'dora': {
        'solvers',
        'train',
        'grid',
        'cli.grid',
        'run.launch',
        'recipe.check',
        'recipe.experiment',
    },
    'flashy': {'solvers', 'train'},
    'hydra': {'utils.config', 'recipe'},
    'torchaudio': set(),  # discontinued, and incompatible with CPU-only builds of PyTorch
}


def subpackage(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return parts[0]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def imported_names(path, tree):
    """Absolute dotted names of all imports of a file, those inside functions included."""
    return imported_from(path, ast.walk(tree))


def imported_from(path, nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: imports are absolute'
            for alias in node.names:
                name = f'{node.module}.{alias.name}'
                is_module = PACKAGE.parent.joinpath(*name.split('.')).with_suffix('.py').exists()
                yield name if is_module else node.module


def allowed_subpackages(name):
    layer = next(index for index, names in enumerate(LAYERS) if name in names)
    return set().union(*LAYERS[:layer], {name})


SOURCES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_from_lower_layers(path):
    allowed = allowed_subpackages(subpackage(path))
    where = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
    for name in imported_names(path, ast.parse(path.read_text())):
        parts = name.split('.')
        if (
            parts[0] == 'audiocodec'
            and len(parts) > 1
            and (PACKAGE / parts[1]).exists() | (PACKAGE / f'{parts[1]}.py').exists()
        ):
            assert parts[1] in allowed | {FACADES.get(where)}, f'{where} imports {name}'
            assert '.'.join(parts[1:3]) not in FACADES, f'{where} imports {name}'
        if parts[0] in FRAMEWORKS:
            assert {subpackage(path), where} & FRAMEWORKS[parts[0]], f'{where} imports {name}'


def test_every_subpackage_has_a_layer():
    assert {subpackage(path) for path in SOURCES} == set().union(*LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('module', 'absent'),
    [
        ('audiocodec', ['torch', 'numpy', 'hydra']),
        (
            'audiocodec.models',
            [
                'torchaudio',
                'soundfile',
                'hydra',
                'dora',
                'flashy',
                'tensorboard',
                'audiocodec.train',
            ],
        ),
    ],
)
def test_imports_do_not_load_heavy_packages(module, absent):
    code = f'import sys, {module}; print([name for name in {absent!r} if name in sys.modules])'
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == '[]'


def test_a_folder_holds_at_most_twelve_files():
    sizes = collections.Counter(path.parent for path in PACKAGE.rglob('*.py'))
    assert {folder: size for folder, size in sizes.items() if size > 12} == {}


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions are left out: `CompressionModel.get_pretrained` needs one."""
    graph = {}
    for path in SOURCES:
        parts = ('audiocodec', *path.relative_to(PACKAGE).with_suffix('').parts)
        if parts[-1] != '__init__':  # those only hand names on
            tree = ast.parse(path.read_text())
            late = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
            inside = {id(child) for node in late for child in ast.walk(node)}
            nodes = [node for node in ast.walk(tree) if id(node) not in inside]
            graph['.'.join(parts)] = set(imported_from(path, nodes))
    modules = {
        name: {target for target in found if target in graph} for name, found in graph.items()
    }
    order = graphlib.TopologicalSorter(modules)
    order.prepare()  # raises CycleError with the files of a circle
    assert order.is_active()
