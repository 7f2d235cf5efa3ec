"""Opens what is to be exported: a signature, a file, a name or a model."""

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
        name: what reports call it; without the folders of this machine, for reports travel.
        model: in eval mode, on the CPU.
        path: of the file that it is from, if it is from one.
        content: of a training checkpoint of this project; None otherwise.
        origin: `sig` and `epoch`, where they are known.
    """

    name: str
    model: CompressionModel
    path: Path | None = None
    content: dict[str, Any] | None = None
    origin: dict[str, Any] = field(default_factory=dict)


def open_source(source: str | os.PathLike[str] | CompressionModel) -> Source:
    """Load what is to be exported.

    Args:
        source: a model, as it is (a copy is taken); or what `sources.find` takes.

    Raises:
        ValueError: nothing of that name, or unreadable.
    """
    if isinstance(source, CompressionModel):
        return Source(
            f'a model of type {type(source).__name__}', copy.deepcopy(source).cpu().eval()
        )
    found = sources.find(source)
    name = found.name if found.exists() else os.fspath(source)
    if not found.is_file():
        return Source(name, pretrained.load(str(found)))
    model = pretrained.load(str(found))
    try:
        content = checkpoint.load(found)
    except ValueError:  # of another project, with objects of its own, which `pretrained` knows
        return Source(name, model, found)
    origin: dict[str, Any] = {}
    if content.get('format') in (checkpoint.CHECKPOINT_FORMAT, checkpoint.MODEL_FORMAT):
        origin = {key: content[key] for key in ('sig', 'epoch') if key in content}
    if 'sig' in origin:
        name = ', '.join(
            [
                f'experiment {origin["sig"]}',
                *([f'epoch {origin["epoch"]}'] if 'epoch' in origin else []),
            ]
        )
    own = content if content.get('format') == checkpoint.CHECKPOINT_FORMAT else None
    return Source(name, model, found, own, origin)
