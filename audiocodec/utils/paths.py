"""Paths: the project's folder, folders of experiments, file names of samples."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
# True for a wheel, which contains config/; in a clone, config/ is next to the package
INSTALLED = (_PACKAGE / 'config').is_dir()
# the folder that contains config/, grids/ and dataset/
ROOT = _PACKAGE if INSTALLED else _PACKAGE.parent

# With a number, a kind, a suffix and the addition of a temporary file, a name stays within the 143
# bytes that encrypted file systems allow (others: 255).
_STEM_BYTES = 80
_REFUSED = '/\\:*?"<>|'  # not allowed by some file systems


def experiments_folder() -> Path:
    """Return the folder of all experiments.

    The environment variable AUDIOCODEC_DORA_DIR, or `outputs/`: in the clone, or in the working
    directory for an installed package.
    """
    outputs = Path('outputs') if INSTALLED else ROOT / 'outputs'
    return Path(os.environ.get('AUDIOCODEC_DORA_DIR') or outputs).expanduser().absolute()


def own_config_folder() -> Path | None:
    """Return `config/` of the working directory, with the user's own recipes, if it exists."""
    folder = Path('config').absolute()
    return folder if folder.is_dir() and not folder.samefile(ROOT / 'config') else None


def grid_package() -> str:
    """Return the package of the grids: `grids` of the working directory, else the project's."""
    own = Path('grids/__init__.py').is_file()
    return 'audiocodec.grids' if INSTALLED and not own else 'grids'


def cache_folder(name: str) -> Path | None:
    """Return a folder of the user's cache, created; None if no cache folder is writable."""
    roots = []
    if os.environ.get('XDG_CACHE_HOME'):
        roots.append(Path(os.environ['XDG_CACHE_HOME']))
    with suppress(RuntimeError):  # no home folder
        roots.append(Path.home() / '.cache')
    user = os.getuid() if hasattr(os, 'getuid') else 'user'
    roots.append(Path(tempfile.gettempdir()) / f'cache-{user}')
    for root in roots:
        folder = root / 'audiocodec' / name
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return None


def find(path: str | os.PathLike[str]) -> Path:
    """Resolve a user's path: absolute, or relative to the working directory or the project."""
    if '://' in os.fspath(path):  # a URL stays as it is
        return Path(path)
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path.absolute()


def canonical(path: str | os.PathLike[str]) -> str:
    """Return the canonical spelling of a path, for comparisons: `data/` and `./data` agree.

    Symbolic links are kept, except before `..`, which refers to the parent of the link's target.
    Paths in the project's folder are relative to it, so that they do not depend on where the clone
    is.
    """
    found = find(path)
    if '..' in found.parts:
        found = found.resolve()
    return str(found.relative_to(ROOT) if found.is_relative_to(ROOT) else found)


def safe_stem(path: str | os.PathLike[str]) -> str:
    """Return the name of a file without its suffix, safe for any file system and terminal.

    Characters that cannot be printed or stored become '_', and names are cut after 80 bytes. A
    changed name ends in eight digits of its hash, so that different names stay different.
    """
    stem = Path(path).stem
    cleaned = ''.join(char if char.isprintable() and char not in _REFUSED else '_' for char in stem)
    if cleaned == stem and len(stem.encode()) <= _STEM_BYTES:
        return stem
    digest = hashlib.sha256(stem.encode(errors='surrogatepass')).hexdigest()[:8]
    return cleaned.encode()[: _STEM_BYTES - 9].decode(errors='ignore') + f'-{digest}'


def experiment_places(sig: str, beside: Path | None = None) -> list[Path]:
    """Return the folders in which to look for an experiment, in order.

    These are `beside`, the folder of all experiments, and the folder recorded there by
    `note_experiment`.

    Args:
        sig: signature of the experiment.
        beside: another folder of experiments.
    """
    roots = [experiments_folder()] if beside is None else [beside.absolute(), experiments_folder()]
    places = [root / 'xps' / sig for root in roots]
    with suppress(OSError):
        places.append(Path(_note(sig).read_text(encoding='utf-8', errors='surrogateescape')))
    return list(dict.fromkeys(places))


def note_experiment(folder: Path) -> None:
    """Record the folder of an experiment elsewhere, so that its signature is enough to find it.

    Args:
        folder: folder of the experiment; its name is the signature.
    """
    folder = folder.absolute()
    if folder.parent == experiments_folder() / 'xps':
        return
    note = _note(folder.name)
    temporary = note.with_name(f'.{note.name}.{os.getpid()}')
    with suppress(OSError):  # not essential: the user can still type the folder
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(str(folder), encoding='utf-8', errors='surrogateescape')
        temporary.replace(note)


def _note(sig: str) -> Path:
    return experiments_folder() / 'elsewhere' / sig
