"""Where things lie: the project's folder, the experiments, files named relatively."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent  # of a clone: it holds config/, grids/ and dataset/


def experiments_folder() -> Path:
    """The folder of all experiments: the environment's AUDIOCODEC_DORA_DIR, else `outputs/` in the project's folder."""
    return Path(os.environ.get('AUDIOCODEC_DORA_DIR') or ROOT / 'outputs').expanduser().absolute()


def find(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: absolute, from the working directory, or from the project's folder."""
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path.absolute()


def canonical(path: str | os.PathLike[str]) -> str:
    """Returns the one spelling of a path, for comparisons: `data/`, `./data`, `~/data` and its absolute form agree.

    Symbolic links stay as they are written, except before `..`, which leaves the folder that a link leads to. What
    lies in the project's own folder is given relative to it, so that it does not depend on where the clone is.
    """
    found = find(path)
    if '..' in found.parts:
        found = found.resolve()
    return str(found.relative_to(ROOT) if found.is_relative_to(ROOT) else found)
