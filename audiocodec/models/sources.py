"""Names of models: resolves what a user types to a file or folder, for training and export."""

import os
import re
from pathlib import Path

from audiocodec.models import pretrained
from audiocodec.utils import config, paths

CHECKPOINT = 'checkpoint.th'  # the latest one in an experiment's folder


def find(source: str | os.PathLike[str], beside: Path | None = None) -> Path:
    """Return the local file or folder of a model, downloaded from the Hub if necessary.

    Args:
        source: a file; a folder of an experiment or of `transformers`; `//sig/SIG` or `SIG`, the
            signature of an experiment, searched in `paths.experiment_places`; or
            `//pretrained/NAME`, with any name that `pretrained.load` accepts. The names in
            `pretrained.NAMES` need no prefix.
        beside: a folder of experiments to search first, usually that of the running experiment.

    Raises:
        ValueError: not found; the message says where it was searched.
    """
    name = os.fspath(source)
    if name.startswith('//pretrained/'):
        return pretrained.find(name.removeprefix('//pretrained/'))
    if name.startswith('//sig/'):
        return _checkpoint_of(name.removeprefix('//sig/').strip('/'), beside, name)
    if Path(name).expanduser().exists() or name in pretrained.NAMES:
        return pretrained.find(name)
    if re.fullmatch(r'[0-9a-f]{8}', name):
        return _checkpoint_of(name, beside, f'{name!r}: no such file or folder, and as a signature')
    hint = config.nearest(name, pretrained.NAMES) or '.'
    raise ValueError(
        f'{name!r}: no such file or folder{hint} Expected //sig/SIG, //pretrained/NAME, an '
        "experiment's folder, a checkpoint or an exported model"
    )


def _checkpoint_of(sig: str, beside: Path | None, name: str) -> Path:
    places = [folder / CHECKPOINT for folder in paths.experiment_places(sig, beside)]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f'{name}: no checkpoint at {" or ".join(map(str, places))}; if the experiment was run '
        'elsewhere, give its folder or set AUDIOCODEC_DORA_DIR; a run writes its first checkpoint '
        'after its first epoch, or checkpoint.every_updates updates'
    )
