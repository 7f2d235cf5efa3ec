"""TensorBoard's event files."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from audiocodec.dsp.picture import audio_picture


class TensorBoard:
    """Event files of TensorBoard in a folder.

    Args:
        folder: folder of the event files.
        updates: see `Tracker`.
    """

    def __init__(self, folder: Path, updates: int | None) -> None:
        self.folder = folder
        self._purge = None if updates is None else updates + 1
        self._writer: Any = None

    @contextmanager
    def _written(self) -> Iterator[Any]:
        """Provide a writer, and flush it afterwards; after a failure, open a new one next time."""
        from torch.utils.tensorboard import SummaryWriter

        try:
            if self._writer is None:
                self._writer = SummaryWriter(str(self.folder), purge_step=self._purge)
            yield self._writer
            self._writer.flush()
        except Exception:
            self._writer = None
            raise
        self._purge = None

    def scalars(self, named: Mapping[str, float], updates: int, epoch: int) -> None:
        """Write a point of each curve."""
        with self._written() as writer:
            for key, value in named.items():
                writer.add_scalar(key, value, updates)

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Write a waveform, mixed to mono, and its spectrogram."""
        # TensorBoard would do the same, with a line in the log
        tag = re.sub(r'[^-/\w.]', '_', name)
        with self._written() as writer:
            writer.add_audio(f'{tag}/audio', wav.mean(0, keepdim=True), updates, sample_rate)
            writer.add_image(f'{tag}/spectrogram', audio_picture(wav, sample_rate), updates)

    def close(self) -> None:
        """Do nothing: everything is flushed."""
