"""Where metrics, audio and spectrogram images of a run go besides the log: TensorBoard, and Weights
& Biases.

Both have one axis, the updates done. A tracker that fails is a warning; the run goes on, and the
next point is tried.
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

from audiocodec.utils.config import ConfigError
from audiocodec.utils.failures import Failures

logger = logging.getLogger('audiocodec')

# Seconds for which Weights & Biases waits for somebody to log in on a terminal, and for the last
# uploads at the end (where its version knows the latter); the environment has the last word.
_WANDB_LIMITS = {'WANDB_LOGIN_TIMEOUT': '60', 'WANDB_FINISH_TIMEOUT': '600'}


def spectrogram_image(
    wav: torch.Tensor, n_fft: int = 1024, hop_length: int = 256, floor_db: float = -80.0
) -> torch.Tensor:
    """A log-magnitude spectrogram as a picture: low frequencies at the bottom, dark is quiet.

    Args:
        wav: float [C, T].
        n_fft: window length, samples.
        hop_length: samples a column.
        floor_db: what is black, relative to a full-scale sine.

    Returns:
        float [3, n_fft // 2 + 1, T // hop_length + 1] in [0, 1].
    """
    mono = wav.mean(0)
    window = torch.hann_window(n_fft, device=wav.device)
    pad = max(0, n_fft - mono.shape[-1])
    spec = torch.stft(
        torch.nn.functional.pad(mono, (0, pad)),
        n_fft,
        hop_length,
        window=window,
        return_complex=True,
    )
    level = 20 * torch.log10(spec.abs() / (window.sum() / 2) + 1e-10)
    gray = (1 - level / floor_db).clamp(0, 1).flip(0)
    # Three ramps one after the other: black, violet, orange, pale yellow. Its lightness grows
    # evenly.
    return torch.stack(
        [
            (1.5 * gray).clamp(0, 1),
            (2 * gray - 0.7).clamp(0, 1),
            torch.where(gray < 0.5, gray, (1 - gray))
            .mul(1.1)
            .add((4 * gray - 3).clamp(0, 1))
            .clamp(0, 1),
        ]
    )


class Tracker:
    """Sends figures and audio to all trackers of a run, on worker 0.

    Args:
        cfg: the run's configuration, of which `logging` says what is on.
        folder: the experiment's folder; TensorBoard's files go to `tensorboard/` in it.
        name: the experiment's signature.
        updates: done so far. TensorBoard forgets points beyond, which an interrupted run has left,
            unless None.

    Raises:
        ConfigError: if Weights & Biases is asked for and not installed.
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
        """Sends figures as `section/metric`.

        Args:
            section: a stage, for the figures of an epoch; 'updates' within one.
            metrics: the figures.
            updates: done when they were measured.
            epoch: in which they were measured.
        """
        named = {f'{section}/{key}': value for key, value in metrics.items()}
        for name, sink in self._sinks.items():
            with self.failures.caught(name):
                sink.scalars(named, updates, epoch)

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Sends a waveform float [C, T] and its spectrogram, as `name` (see `scalars`)."""
        wav = wav.detach().cpu().float().clamp(-1, 1)
        for kind, sink in self._sinks.items():
            with self.failures.caught(kind):
                sink.audio(name, wav, sample_rate, updates, epoch)

    def close(self) -> None:
        """Ends the runs of trackers that have such; a run that fails does not call it, and counts
        there as failed.
        """
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
    """Event files in a folder.

    Args:
        folder: of the event files.
        updates: see `Tracker`.
    """

    def __init__(self, folder: Path, updates: int | None) -> None:
        self.folder = folder
        self._purge = None if updates is None else updates + 1
        self._writer: Any = None

    @contextmanager
    def _written(self) -> Iterator[Any]:
        """A writer of which everything is on the disk behind the block; after a failure there is
        another next time.
        """
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
        """Writes a point of each curve."""
        with self._written() as writer:
            for key, value in named.items():
                writer.add_scalar(key, value, updates)

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Writes a waveform, its channels mixed, and its spectrogram."""
        tag = re.sub(
            r'[^-/\w.]', '_', name
        )  # which TensorBoard would do too, with a line in the log
        with self._written() as writer:
            writer.add_audio(f'{tag}/audio', wav.mean(0, keepdim=True), updates, sample_rate)
            writer.add_image(f'{tag}/spectrogram', spectrogram_image(wav), updates)

    def close(self) -> None:
        """Nothing is left to do."""


class WeightsAndBiases:
    """A run of Weights & Biases, which continues over the interruptions of an experiment.

    Its id is the signature and a random ending, kept in the experiment's folder: a folder that was
    cleared begins another curve. Where the run was deleted on the server, a new one is begun.
    Without a login or a connection the run is kept in the folder, offline, for `wandb sync`.

    Args:
        cfg: the run's configuration.
        folder: the experiment's folder.
        name: the experiment's signature.
    """

    def __init__(self, cfg: DictConfig, folder: Path, name: str) -> None:
        for variable, seconds in _WANDB_LIMITS.items():
            os.environ.setdefault(variable, seconds)
        import wandb  # reads the environment

        self.wandb, self.name, self.id_file = wandb, name, folder / '.wandb_id'
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
        except Exception as error:  # its own kinds have changed over the versions
            if 'previously created and deleted' in str(
                error
            ):  # says the server; such an id cannot be used again
                logger.warning(
                    'Weights & Biases: the run %s was deleted on the server; a new one is begun',
                    run_id,
                )
                return self._begin(self._new_id())
            return self._begin_offline(run_id, str(error))
        if run.disabled and not {'WANDB_MODE', 'WANDB_DISABLED'} & os.environ.keys():
            return self._begin_offline(run_id, 'nobody has logged in')
        return run

    def _begin_offline(self, run_id: str, reason: str) -> Any:
        logger.warning(
            'Weights & Biases cannot be reached, the run is kept in %s/wandb (`wandb sync` uploads '
            'it): %s',
            self._options['dir'],
            reason,
        )
        # its service keeps the id of a run that could not begin, as one in use
        self.wandb.teardown()
        return self.wandb.init(id=run_id, mode='offline', **self._options)

    def scalars(self, named: Mapping[str, float], updates: int, epoch: int) -> None:
        """Logs a point of each curve."""
        self.run.log({**named, 'updates': updates, 'epoch': epoch})

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Logs a waveform and its spectrogram."""
        image = spectrogram_image(wav).permute(1, 2, 0).numpy()
        self.run.log(
            {
                f'{name}/audio': self.wandb.Audio(wav.T.numpy(), sample_rate),
                f'{name}/spectrogram': self.wandb.Image(image),
                'updates': updates,
                'epoch': epoch,
            }
        )

    def close(self) -> None:
        """Uploads what is left and marks the run as finished."""
        self.run.finish()
