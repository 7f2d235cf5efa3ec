"""Trackers of metrics, audio and spectrogram images: TensorBoard, and Weights & Biases.

The horizontal axis is the number of updates. A failing tracker is a warning: the run continues, and
the next point is tried again.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from omegaconf import DictConfig

from audiocodec.run.trackers.tensorboard import TensorBoard
from audiocodec.run.trackers.weights_and_biases import WeightsAndBiases
from audiocodec.utils.config import ConfigError
from audiocodec.utils.failures import Failures

_LONGEST_AUDIO = 30  # seconds


class Tracker:
    """Sends metrics and audio to all trackers of a run, on worker 0.

    Args:
        cfg: configuration of the run; its section `logging` enables trackers.
        folder: folder of the experiment; TensorBoard's files go to `tensorboard/` in it.
        name: signature of the experiment.
        updates: number of updates so far. TensorBoard drops later points, left by an interrupted
            run; None keeps them.

    Raises:
        ConfigError: Weights & Biases is enabled but not installed.
    """

    def __init__(
        self, cfg: DictConfig, folder: Path, name: str, updates: int | None = None
    ) -> None:
        self.failures = Failures()
        self._sinks: dict[str, _Sink] = {}
        if cfg.logging.tensorboard:
            self._sinks['TensorBoard'] = TensorBoard(folder / 'tensorboard', updates)
        if cfg.logging.wandb.enabled:
            if importlib.util.find_spec('wandb') is None:
                raise ConfigError(
                    'logging.wandb.enabled=true needs the package wandb: pip install '
                    "'audiocodec[wandb]'"
                )
            with self.failures.caught('Weights & Biases'):
                self._sinks['Weights & Biases'] = WeightsAndBiases(cfg, folder, name)

    def scalars(self, section: str, metrics: Mapping[str, float], updates: int, epoch: int) -> None:
        """Send metrics as `section/metric`.

        Args:
            section: a stage, for the metrics of an epoch; 'updates' for those within an epoch.
            metrics: the metrics.
            updates: number of updates when they were measured.
            epoch: epoch in which they were measured.
        """
        named = {f'{section}/{key}': value for key, value in metrics.items()}
        for name, sink in self._sinks.items():
            with self.failures.caught(name):
                sink.scalars(named, updates, epoch)

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Send a waveform float [C, T] and its spectrogram, as `name` (see `scalars`).

        Only the first 30 s: trackers keep all they get in files that are read again and again.
        """
        wav = wav[:, : _LONGEST_AUDIO * sample_rate].detach().cpu().float().clamp(-1, 1)
        for kind, sink in self._sinks.items():
            with self.failures.caught(kind):
                sink.audio(name, wav, sample_rate, updates, epoch)

    def close(self) -> None:
        """Mark the run as finished in trackers that record it; not called for failed runs."""
        for name, sink in self._sinks.items():
            with self.failures.caught(name):
                sink.close()


class _Sink(Protocol):
    """One tracker; see `Tracker`."""

    def scalars(self, named: Mapping[str, float], updates: int, epoch: int) -> None: ...
    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None: ...
    def close(self) -> None: ...
