"""Sources of exports: a signature, a file, a name or a model."""

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiocodec.models import pretrained, sources
from audiocodec.models.base import CompressionModel
from audiocodec.run import checkpoint


@dataclass
class Source:
    """A model to export.

    Attributes:
        name: name for reports, without the folders of this machine, because reports are shared.
        model: in eval mode, on the CPU.
        path: the file it was loaded from, if any.
        content: content of a training checkpoint of this project; None otherwise.
        origin: `sig` and `epoch` of a file whose name does not say what it is, if known.
    """

    name: str
    model: CompressionModel
    path: Path | None = None
    content: dict[str, Any] | None = None
    origin: dict[str, Any] = field(default_factory=dict)


def open_source(source: str | os.PathLike[str] | CompressionModel) -> Source:
    """Load a model to export.

    Args:
        source: a model (which is copied), or a name for `sources.find`.

    Raises:
        ValueError: no such source, or unreadable.
    """
    if isinstance(source, CompressionModel):
        return Source(
            f'a model of type {type(source).__name__}', copy.deepcopy(source).cpu().eval()
        )
    found = sources.find(source)
    typed = os.fspath(source).removeprefix('//pretrained/')
    is_known = typed in pretrained.NAMES
    name = found.name if found.exists() and not is_known else typed
    if not found.is_file():
        return Source(name, pretrained.load(str(found)))
    model = pretrained.load(str(found))
    try:
        content = checkpoint.load(found)
    except ValueError:  # a file of another project with objects that only `pretrained` allows
        return Source(name, model, found)
    origin: dict[str, Any] = {}
    own = content.get('format') in (checkpoint.CHECKPOINT_FORMAT, checkpoint.MODEL_FORMAT)
    if own and not is_known:
        origin = {key: content[key] for key in ('sig', 'epoch') if key in content}
    if 'sig' in origin:
        name = f'experiment {origin["sig"]}'
        if 'epoch' in origin:
            name += f', epoch {origin["epoch"]}'
    past = content if content.get('format') == checkpoint.CHECKPOINT_FORMAT else None
    return Source(name, model, found, past, origin)
