"""Imports go only leftwards through the layers of the package; read from the syntax trees, nothing
is imported.
"""

import ast
import collections
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'audiocodec'
# what a room may import of audiocodec, besides itself; inside the rooms of one floor nobody visits
# a neighbour
FLOORS = [
    {'utils', 'kernels', 'dsp'},
    {'modules', 'optim'},
    {'quantization', 'losses', 'adversarial', 'metrics', 'data', 'run'},
    {'models'},
    {'recipe'},
    {'solvers'},
    {'train', 'cli'},
    {'__main__'},
]
# a name that users know, whose code stands elsewhere; nothing in the package imports it
FACADES = {'utils.export': 'models'}
# framework -> rooms that may use it
FRAMEWORKS = {
    'dora': {'solvers', 'train', 'run.launch', 'recipe.check', 'recipe.experiment'},
    'flashy': {'solvers', 'train'},
    'hydra': {'utils.config', 'recipe'},
    'torchaudio': set(),
}  # it has ended, and cannot be imported beside a CPU-only PyTorch


def room(path):
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


def allowed_rooms(name):
    floor = next(index for index, rooms in enumerate(FLOORS) if name in rooms)
    return set().union(*FLOORS[:floor], {name})


SOURCES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_leftwards(path):
    allowed = allowed_rooms(room(path))
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
            assert {room(path), where} & FRAMEWORKS[parts[0]], f'{where} imports {name}'


def test_every_room_has_its_floor():
    rooms = {room(path) for path in SOURCES}
    assert rooms == set().union(*FLOORS)


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
def test_what_an_import_does_not_bring(module, absent):
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
