"""Where things lie, and how files are named: the project's folder, the experiments, names of
samples.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
INSTALLED = (
    _PACKAGE / 'config'
).is_dir()  # from a wheel; in a clone, config/ lies beside the package
ROOT = (
    _PACKAGE if INSTALLED else _PACKAGE.parent
)  # the folder that holds config/, grids/ and dataset/

# With a number, a kind, a suffix and what a temporary file adds, a name stays within the 143 bytes
# that an encrypted file system allows (others: 255).
_STEM_BYTES = 80
_REFUSED = '/\\:*?"<>|'  # by one file system or another


def experiments_folder() -> Path:
    """Returns the folder of all experiments.

    That is the environment's AUDIOCODEC_DORA_DIR, else `outputs/`: in the clone, or in the working
    directory for an installed package.
    """
    outputs = Path('outputs') if INSTALLED else ROOT / 'outputs'
    return Path(os.environ.get('AUDIOCODEC_DORA_DIR') or outputs).expanduser().absolute()


def own_config_folder() -> Path | None:
    """Returns `config/` of the working directory, for recipes of your own, if any."""
    folder = Path('config').absolute()
    return folder if folder.is_dir() and not folder.samefile(ROOT / 'config') else None


def grid_package() -> str:
    """Returns the package of the grids: `grids` of the working directory, else the project's."""
    own = Path('grids/__init__.py').is_file()
    return 'audiocodec.grids' if INSTALLED and not own else 'grids'


def find(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: absolute, from the working directory, or from the project's
    folder.
    """
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path.absolute()


def canonical(path: str | os.PathLike[str]) -> str:
    """Returns the one spelling of a path, for comparisons: `data/`, `./data`, `~/data` and its
    absolute form agree.

    Symbolic links stay as they are written, except before `..`, which leaves the folder that a link
    leads to. What lies in the project's own folder is given relative to it, so that it does not
    depend on where the clone is.
    """
    found = find(path)
    if '..' in found.parts:
        found = found.resolve()
    return str(found.relative_to(ROOT) if found.is_relative_to(ROOT) else found)


def safe_stem(path: str | os.PathLike[str]) -> str:
    """Returns the name of a file, without its suffix, in a form that any file system and terminal
    takes.

    Characters that cannot be printed or stored become '_', and names beyond 80 bytes are cut. A
    name that is changed ends in eight digits of its hash, so that different names stay different.
    """
    stem = Path(path).stem
    cleaned = ''.join(char if char.isprintable() and char not in _REFUSED else '_' for char in stem)
    if cleaned == stem and len(stem.encode()) <= _STEM_BYTES:
        return stem
    digest = hashlib.sha256(stem.encode(errors='surrogatepass')).hexdigest()[:8]
    return cleaned.encode()[: _STEM_BYTES - 9].decode(errors='ignore') + f'-{digest}'


def experiment_places(sig: str, beside: Path | None = None) -> list[Path]:
    """Returns the folders in which to look for an experiment, in order.

    These are `beside`, the folder of all experiments, and the folder that `note_experiment` has
    noted there.

    Args:
        sig: its signature.
        beside: another folder of experiments.
    """
    roots = [experiments_folder()] if beside is None else [beside.absolute(), experiments_folder()]
    places = [root / 'xps' / sig for root in roots]
    with suppress(OSError):
        places.append(Path(_note(sig).read_text(encoding='utf-8', errors='surrogateescape')))
    return list(dict.fromkeys(places))


def note_experiment(folder: Path) -> None:
    """Notes in the folder of all experiments where one is that is not in it, so that its signature
    alone finds it.

    Args:
        folder: of the experiment; its name is the signature.
    """
    folder = folder.absolute()
    if folder.parent == experiments_folder() / 'xps':
        return
    note = _note(folder.name)
    temporary = note.with_name(f'.{note.name}.{os.getpid()}')
    with suppress(OSError):  # it only spares typing the folder
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(str(folder), encoding='utf-8', errors='surrogateescape')
        temporary.replace(note)


def _note(sig: str) -> Path:
    return experiments_folder() / 'elsewhere' / sig
