"""Clips of recordings on which computations of a model are compared."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audiocodec.models.base import CompressionModel
from audiocodec.utils import paths

SECONDS = 3.0
ITEMS = 4


@dataclass
class Clips:
    """Audio to compare on.

    Attributes:
        origin: where it is from, for the report.
        names: name of each clip.
        wavs: float [C, T] each.
    """

    origin: str
    names: list[str]
    wavs: list[torch.Tensor]


def load_clips(
    model: CompressionModel, sources: Sequence[str | os.PathLike[str]] | None = None
) -> Clips:
    """Load segments of recordings for a comparison, with different lengths.

    Args:
        model: determines the sample rate and channels of the clips.
        sources: audio files, folders or manifests. None: the example recordings.

    Raises:
        ValueError: the sources cannot be read, or contain NaN or Inf.
    """
    origin = 'given'
    if sources is None:
        sources = [paths.ROOT / 'dataset' / 'example' / 'evaluate']
        origin = 'recordings of dataset/example/evaluate'
    # not at the top: other uses of models do not need audio files
    from audiocodec.data import load_source, read_segment
    from audiocodec.data.audio import check_samples

    metas = [meta for source in sources for meta in load_source(source)]
    metas = metas[:: max(1, len(metas) // ITEMS)][:ITEMS]
    clips = Clips(origin, [], [])
    for index, meta in enumerate(metas):
        frames = int(SECONDS * model.sample_rate) - 37 * index - 1
        start = max(0, int(meta.duration * model.sample_rate) - frames) // 2
        wav = read_segment(meta.path, start, frames, model.sample_rate, model.channels)
        check_samples(wav, meta.path)
        wav = _fit(model, wav)
        clips.wavs.append(wav)
        clips.names.append(f'{Path(meta.path).name} ({wav.shape[-1] / model.sample_rate:.2f} s)')
    return clips


def _fit(model: CompressionModel, wav: torch.Tensor) -> torch.Tensor:
    """Cut to a length of full segments if the model uses segments: other libraries need that."""
    segments = getattr(model, 'segments', None)
    if segments is None or wav.shape[-1] <= segments.length:
        return wav
    number = (wav.shape[-1] - segments.length) // segments.stride
    return wav[..., : number * segments.stride + segments.length]
