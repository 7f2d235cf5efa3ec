"""What a run has done so far, and the checkpoint that holds it."""

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
    """A Flashy solver whose checkpoints hold everything that shapes the next update.

    Args:
        cfg: a resolved configuration.
        device: of the model.

    Attributes:
        updates: done since the first epoch.
        batches: done in this epoch.
        means: of the metrics of this epoch's updates.
        guard: follows non-finite updates.
        failures: of what is done besides training.
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
        self._bad_files: dict[str, Any] | None = None  # skipped in this epoch before a resume
        self.register_stateful('updates')

    @property
    @abstractmethod
    def dataloaders(self) -> dict[str, Any]:
        """A loader for each stage that has data."""

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return Path(super().folder)

    @property
    def checkpoint_path(self) -> Path:
        """The latest checkpoint."""
        return self.folder / 'checkpoint.th'

    def state_dict(self) -> dict[str, Any]:
        """Every registered part; Flashy's own entries for the configuration and signature are kept
        apart.
        """
        return {
            name: value
            for name, value in super().state_dict().items()
            if not name.startswith('xp.')
        }

    def commit(self) -> None:
        """Close the epoch: append its metrics to the history, save the checkpoint and what is made
        from it.
        """
        self.history.append(self._pending_metrics)
        self._start_epoch()
        self.batches, self.means = 0, Averager()
        self.save_checkpoint()
        self._keep_records()

    def _keep_records(self) -> None:
        """Writes what an epoch leaves besides its checkpoint, which holds all of it: copies, and
        `history.json`.
        """
        if not distrib.is_rank_zero():
            return
        options = self.cfg.checkpoint
        with self.failures.caught('a kept checkpoint'):
            kept.keep_epoch(
                self.checkpoint_path, len(self.history), options.save_every, options.keep_last
            )
        if options.keep_best is not None:
            with self.failures.caught(f'checkpoint.keep_best={options.keep_best}'):
                kept.keep_best(
                    self.checkpoint_path,
                    self.history,
                    options.keep_best,
                    self.higher_is_better(*options.keep_best.split('.', 1)),
                )
        with self.failures.caught('history.json'):
            self.xp.link.update_history(self.history)

    def save_checkpoint(self) -> None:
        """Write the latest checkpoint, at any point of an epoch; every worker must call it."""
        position = self._position()
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
        """How far into the epoch it is: batches, metrics of the stages that are done, and what each
        worker holds.
        """
        self._asked_to_stop |= self.guard.flush()
        own = {
            'means': self.means.state_dict(),
            'guard': self.guard.state_dict(),
            'bad_files': self.dataloaders['train'].bad_files.state_dict() if self.batches else None,
        }
        return {
            'batches': self.batches,
            'stages': self._pending_metrics,
            'workers': distrib.all_gather_object(own),
        }

    def _load_position(self, position: dict[str, Any]) -> None:
        if not position:
            return
        self.batches = position['batches']
        self._pending_metrics = {
            stage: dict(metrics) for stage, metrics in position['stages'].items()
        }
        workers = position['workers']
        own = workers[distrib.rank()] if len(workers) == distrib.world_size() else None
        if (
            own is None
        ):  # another number of workers goes on: the first of them holds what all have summed up
            held = workers if distrib.is_rank_zero() else []
            bad_files = [worker['bad_files'] for worker in held if worker['bad_files'] is not None]
            own = {
                **workers[0],
                'means': Averager.merge([worker['means'] for worker in held]),
                'bad_files': BadFiles.merge(bad_files) if bad_files else None,
            }
        self.means.load_state_dict(own['means'], self.device)
        self.guard.load_state_dict(own['guard'])
        self._bad_files = own['bad_files']

    def restore(self) -> bool:
        """Continue from this experiment's last checkpoint, if there is one.

        Raises:
            ValueError: if the checkpoint cannot be read or was written with parts of other names or
                shapes.
        """
        if not self.checkpoint_path.exists():
            return False
        content = checkpoint.load_checkpoint(self.checkpoint_path)
        state = content['state']
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(
                f'{self.checkpoint_path} lacks {", ".join(missing)}: it was written by another '
                'recipe; '
                'start afresh with `dora run --clear ...`'
            )
        self._load(state, self.checkpoint_path)
        self._load_position(content['position'])
        return True

    def _load(self, state: dict[str, Any], source: object) -> None:
        try:
            self.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f'{source} does not fit the configured model: {error}') from error

    def higher_is_better(self, stage: str, metric: str) -> bool:
        """Whether a metric of a stage is better the higher it is."""
        return False
