"""Where things lie: the project's folder, the experiments, files named relatively."""

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent  # of a clone: it holds config/, grids/ and dataset/


def experiments_folder() -> Path:
    """The folder of all experiments: the environment's AUDIOCODEC_DORA_DIR, else `outputs/` in the project's folder."""
    return Path(os.environ.get('AUDIOCODEC_DORA_DIR') or ROOT / 'outputs').absolute()


def find(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it: absolute, from the working directory, or from the project's folder."""
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (ROOT / path).exists():
        return ROOT / path
    return path.absolute()


def experiment_places(sig: str, beside: Path | None = None) -> list[Path]:
    """Returns the folders in which to look for an experiment, in order.

    These are `beside`, the folder of all experiments, and the folder that `note_experiment` has noted there.

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
    """Notes in the folder of all experiments where one is that is not in it, so that its signature alone finds it.

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
