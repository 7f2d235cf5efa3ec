"""Trackers of metrics, audio and spectrogram images: TensorBoard, and Weights & Biases.

The horizontal axis is the number of updates. A failing tracker is a warning: the run continues, and
the next point is tried again.
"""

import importlib.util
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf

from audiocodec.dsp.picture import audio_picture
from audiocodec.utils.config import ConfigError
from audiocodec.utils.failures import Failures

logger = logging.getLogger('audiocodec')

_LONGEST_AUDIO = 30  # seconds
# Seconds that Weights & Biases waits for a login on a terminal, and for the last uploads (in
# versions with such a limit); variables that are already set take precedence.
_WANDB_LIMITS = {'WANDB_LOGIN_TIMEOUT': '60', 'WANDB_FINISH_TIMEOUT': '600'}


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


class WeightsAndBiases:
    """Run of Weights & Biases, which continues after interruptions of an experiment.

    Its id is the signature and a random suffix, stored in the experiment's folder: a cleared folder
    starts a new run, and so does a run that was deleted on the server. Without a login or a
    connection, the run is stored offline in the folder, for `wandb sync`.

    Args:
        cfg: configuration of the run.
        folder: folder of the experiment.
        name: signature of the experiment.
    """

    def __init__(self, cfg: DictConfig, folder: Path, name: str) -> None:
        for variable, seconds in _WANDB_LIMITS.items():
            os.environ.setdefault(variable, seconds)
        import wandb  # reads the environment, which must be set before

        self.wandb = wandb
        self.name = name
        self.id_file = folder / '.wandb_id'
        options = cfg.logging.wandb
        self._options = {
            'project': options.project,
            'name': options.name or name,
            'group': options.group,
            'dir': str(folder),
            'config': OmegaConf.to_container(cfg, resolve=True),
            'resume': 'allow',
        }
        self.run = self._begin(
            self.id_file.read_text().strip() if self.id_file.exists() else self._new_id()
        )
        self.run.define_metric('updates')
        self.run.define_metric('*', step_metric='updates')

    def _new_id(self) -> str:
        found = f'{self.name}-{secrets.token_hex(4)}'
        self.id_file.write_text(found)
        return found

    def _begin(self, run_id: str) -> Any:
        try:
            run = self.wandb.init(id=run_id, **self._options)
        except Exception as error:  # its error classes differ between versions
            # from the server; such an id cannot be used again
            if 'previously created and deleted' in str(error):
                logger.warning(
                    'Weights & Biases: the run %s was deleted on the server; starting a new one',
                    run_id,
                )
                return self._begin(self._new_id())
            return self._begin_offline(run_id, str(error))
        if run.disabled and not {'WANDB_MODE', 'WANDB_DISABLED'} & os.environ.keys():
            return self._begin_offline(run_id, 'not logged in')
        return run

    def _begin_offline(self, run_id: str, reason: str) -> Any:
        logger.warning(
            'Weights & Biases cannot be reached, the run is stored in %s/wandb (`wandb sync` '
            'uploads it): %s',
            self._options['dir'],
            reason,
        )
        # its service considers the id of a run that failed to start as in use
        self.wandb.teardown()
        return self.wandb.init(id=run_id, mode='offline', **self._options)

    def scalars(self, named: Mapping[str, float], updates: int, epoch: int) -> None:
        """Log a point of each curve."""
        self.run.log({**named, 'updates': updates, 'epoch': epoch})

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Log a waveform and its spectrogram."""
        image = audio_picture(wav, sample_rate).permute(1, 2, 0).numpy()
        self.run.log(
            {
                f'{name}/audio': self.wandb.Audio(wav.T.numpy(), sample_rate),
                f'{name}/spectrogram': self.wandb.Image(image),
                'updates': updates,
                'epoch': epoch,
            }
        )

    def close(self) -> None:
        """Upload what is left, and mark the run as finished."""
        self.run.finish()
