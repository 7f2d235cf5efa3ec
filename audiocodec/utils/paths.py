"""Where things lie: the project's folder, the experiments, files named relatively."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
INSTALLED = (_PACKAGE / 'config').is_dir()            # from a wheel; in a clone, config/ lies beside the package
ROOT = _PACKAGE if INSTALLED else _PACKAGE.parent     # the folder that holds config/, grids/ and dataset/


def experiments_folder() -> Path:
    """Returns the folder of all experiments.

    That is the environment's AUDIOCODEC_DORA_DIR, else `outputs/`: in the clone, or in the working
    directory for an installed package.
    """
    outputs = Path('outputs') if INSTALLED else ROOT / 'outputs'
    return Path(os.environ.get('AUDIOCODEC_DORA_DIR') or outputs).absolute()


def own_config_folder() -> Path | None:
    """Returns `config/` of the working directory, for recipes beside those of the project, if any."""
    folder = Path('config').absolute()
    return folder if folder.is_dir() and not folder.samefile(ROOT / 'config') else None


def grid_package() -> str:
    """Returns the package of the grids: `grids` of the working directory, else the project's."""
    own = Path('grids/__init__.py').is_file()
    return 'audiocodec.grids' if INSTALLED and not own else 'grids'


def find(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: absolute, from the working directory, or from the project's folder."""
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path.absolute()
