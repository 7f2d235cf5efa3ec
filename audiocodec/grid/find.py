"""From the name of a grid to its experiments: the same files and signatures as for `dora grid`."""

import fnmatch
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dora import Explorer, Launcher
from dora.explore import Herd
from dora.shep import Shepherd
from dora.xp import XP

from audiocodec.recipe.experiment import CodecMain


class Entry(NamedTuple):
    """One experiment of a grid.

    Attributes:
        xp: the experiment.
        gpus: GPUs that the grid asks for, at least 0.
    """

    xp: XP
    gpus: int


def find_explorer(name: str, package: str) -> Explorer:
    """Import the explorer of a grid.

    Args:
        name: dotted name of the grid's file within the package, e.g. 'compression.debug'.
        package: package of the grids.

    Raises:
        ValueError: no such grid, or a file without an `explorer`; the message lists the grids.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # where `grids` of the working directory is, as for dora grid
        sys.path.insert(0, here)
    folder = Path(str(importlib.import_module(package).__file__)).parent
    if not folder.joinpath(*name.split('.')).with_suffix('.py').is_file():
        raise ValueError(f'{name}: no such grid in {folder} (available: {_available(folder)})')
    explorer = getattr(importlib.import_module(f'{package}.{name}'), 'explorer', None)
    if not isinstance(explorer, Explorer):
        raise ValueError(
            f'{name}: the file has no explorer: a function `explorer(launcher)` decorated with a '
            'dora.Explorer, as in grids/compression/debug.py'
        )
    return explorer


def _available(folder: Path) -> str:
    files = (path.relative_to(folder).with_suffix('') for path in folder.rglob('*.py'))
    return ', '.join(sorted('.'.join(file.parts) for file in files if file.name[0] != '_'))


def find_entries(main: CodecMain, explorer: Explorer) -> list[Entry]:
    """Return the experiments that a grid declares, in its order, each once.

    Raises:
        ConfigError: an experiment whose overrides are not valid.
    """
    herd = Herd()
    explorer(Launcher(Shepherd(main), main.slurm_options(), herd))
    return [Entry(sheep.xp, herd.slurm_configs[sig].gpus) for sig, sheep in herd.sheeps.items()]


def select(entries: Sequence[Entry], patterns: Sequence[str], main: CodecMain) -> list[Entry]:
    """Select experiments as `dora grid` does.

    Args:
        entries: the experiments of a grid.
        patterns: numbers in the table, or parts of names such as 'n_q=4', with `*`; a `!` before a
            part excludes. All parts must match. Numbers count what the parts leave.
        main: the main that names experiments.

    Raises:
        ValueError: nothing is selected, or a number is not in the table.
    """
    numbers = [int(pattern) for pattern in patterns if pattern.isdigit()]
    parts = [pattern for pattern in patterns if not pattern.isdigit()]
    kept = [entry for entry in entries if _matches(main.get_name(entry.xp), parts)]
    for number in numbers:
        if number >= len(kept):
            raise ValueError(f'{number}: no such experiment (there are 0 to {len(kept) - 1})')
    kept = [kept[number] for number in numbers] if numbers else kept
    if not kept:
        names = ', '.join(main.get_name(entry.xp) or 'the base' for entry in entries)
        raise ValueError(f'{" ".join(patterns)}: no experiment matches (there are: {names})')
    return kept


def _matches(name: str, parts: Sequence[str]) -> bool:
    return all(
        fnmatch.fnmatch(name, f'*{part.lstrip("!")}*') is not part.startswith('!') for part in parts
    )
