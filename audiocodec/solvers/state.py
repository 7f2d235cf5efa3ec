"""The state of a run, and the checkpoints that hold it."""

import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import flashy
import torch
from omegaconf import DictConfig, OmegaConf

from audiocodec.data import BadFiles
from audiocodec.run import checkpoint, kept
from audiocodec.run.averager import Averager
from audiocodec.run.guard import UpdateGuard
from audiocodec.utils import distrib
from audiocodec.utils.failures import Failures

logger = logging.getLogger('audiocodec')


class StatefulSolver(flashy.BaseSolver, ABC):
    """Flashy solver whose checkpoints hold everything that affects the next update.

    A checkpoint may be written after any update. The next one after a resume is then bit for bit
    the same as without interruption.

    Args:
        cfg: a resolved configuration.
        device: the model's device.

    Attributes:
        updates: number of updates since the first epoch.
        batches: number of batches in this epoch.
        means: means of the metrics over this epoch's updates.
        guard: counts and records non-finite updates.
        failures: failures besides training: samples, metrics, trackers, copies.
    """

    def __init__(self, cfg: DictConfig, device: torch.device) -> None:
        super().__init__()
        self.cfg = cfg
        self.device = device
        self.logger = logger
        self.updates = 0
        self.batches = 0
        self.means = Averager()
        self.failures = Failures()
        folder = self.folder / 'nonfinite'
        self.guard = UpdateGuard(folder, device, cfg.optim.max_skipped, cfg.seed)
        self._asked_to_stop = False
        self._bad_files: dict[str, Any] | None = None  # skipped earlier in this epoch
        self.register_stateful('updates')

    @property
    @abstractmethod
    def dataloaders(self) -> dict[str, Any]:
        """Loaders by stage, for the stages that have data."""

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return Path(super().folder)

    @property
    def checkpoint_path(self) -> Path:
        """Path of the latest checkpoint."""
        return self.folder / 'checkpoint.th'

    # ---- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every registered part."""
        # Flashy adds the configuration and signature; `save_checkpoint` writes its own.
        state = super().state_dict()
        return {name: value for name, value in state.items() if not name.startswith('xp.')}

    def commit(self) -> None:
        """Close the epoch: append its metrics to the history, save checkpoint and copies."""
        self.history.append(self._pending_metrics)
        self._start_epoch()
        self.batches = 0
        self.means = Averager()
        self.save_checkpoint()
        self._keep_records()

    def _keep_records(self) -> None:
        """Write the copies of an epoch's checkpoint and `history.json`.

        The checkpoint holds all of it, so a failure here is only a warning.
        """
        if not distrib.is_rank_zero():
            return
        options = self.cfg.checkpoint
        with self.failures.caught('copying the checkpoint'):
            kept.keep_epoch(
                self.checkpoint_path, len(self.history), options.save_every, options.keep_last
            )
        if options.keep_best is not None:
            with self.failures.caught(f'checkpoint.keep_best={options.keep_best}'):
                stage, metric = options.keep_best.split('.', 1)
                kept.keep_best(
                    self.checkpoint_path,
                    self.history,
                    options.keep_best,
                    self.higher_is_better(stage, metric),
                )
        with self.failures.caught('history.json'):
            self.xp.link.update_history(self.history)

    def save_checkpoint(self) -> None:
        """Write the latest checkpoint, at any point of an epoch; every worker must call it."""
        position = self._position()  # gathered from all workers
        if not distrib.is_rank_zero():
            return
        checkpoint.save(
            {
                'format': checkpoint.CHECKPOINT_FORMAT,
                'version': checkpoint.CHECKPOINT_VERSION,
                'sig': self.xp.sig,
                'epoch': len(self.history),
                'config': OmegaConf.to_yaml(self.cfg, resolve=True),
                'state': self.state_dict(),
                'position': position,
            },
            self.checkpoint_path,
        )

    def _position(self) -> dict[str, Any]:
        """Return the position in the epoch: batches, completed stages, state of each worker."""
        self._asked_to_stop |= self.guard.flush()
        bad_files = self.dataloaders['train'].bad_files.state_dict() if self.batches else None
        own = {
            'means': self.means.state_dict(),
            'guard': self.guard.state_dict(),
            'bad_files': bad_files,
        }
        return {
            'batches': self.batches,
            'stages': self._pending_metrics,
            'workers': distrib.all_gather_object(own),
        }

    # ---- resuming --------------------------------------------------------------------------------

    def restore(self) -> bool:
        """Resume from this experiment's last checkpoint; return False if there is none.

        Raises:
            ValueError: the checkpoint cannot be read, or its parts have other names or shapes.
        """
        if not self.checkpoint_path.exists():
            return False
        content = checkpoint.load_checkpoint(self.checkpoint_path)
        state = content['state']
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(
                f'{self.checkpoint_path} lacks {", ".join(missing)}: it was written by another '
                'recipe; start from scratch with `dora run --clear ...`'
            )
        try:
            self.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f'{self.checkpoint_path} does not fit the configured model: {error}'
            ) from error
        self._load_position(content['position'])
        return True

    def _load_position(self, position: dict[str, Any]) -> None:
        """Restore what `_position` returned."""
        if not position:
            return
        self.batches = position['batches']
        stages = position['stages']
        self._pending_metrics = {stage: dict(metrics) for stage, metrics in stages.items()}
        workers = position['workers']
        if len(workers) == distrib.world_size():
            own = workers[distrib.rank()]
        else:
            own = _merged(workers, distrib.is_rank_zero())
        self.means.load_state_dict(own['means'], self.device)
        self.guard.load_state_dict(own['guard'])
        self._bad_files = own['bad_files']

    def higher_is_better(self, stage: str, metric: str) -> bool:
        """True if higher values of a stage's metric are better."""
        return False


def _merged(workers: list[dict[str, Any]], is_first: bool) -> dict[str, Any]:
    """Return a worker's state when the number of workers has changed.

    Sums cannot be distributed again: the first worker gets those of all, the others start at zero.
    """
    summed = workers if is_first else []
    bad_files = [worker['bad_files'] for worker in summed if worker['bad_files'] is not None]
    return {
        **workers[0],
        'means': Averager.merge([worker['means'] for worker in summed]),
        'bad_files': BadFiles.merge(bad_files) if bad_files else None,
    }
