"""What every solver shares: stages, epochs, the state that makes resuming exact, checkpoints, progress, tracking."""

import logging
import os
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import dora
import flashy
import numpy as np
import torch
from flashy.logging import ResultLogger
from omegaconf import DictConfig, OmegaConf

from audiocodec.data import SPLITS
from audiocodec.solvers import sources
from audiocodec.solvers.tracking import Tracker
from audiocodec.utils import allocator, checkpoint, config, distrib, paths
from audiocodec.utils.config import ConfigError
from audiocodec.utils.progress import Progress

logger = logging.getLogger('audiocodec')
T = TypeVar('T')


def seed_everything(*numbers: int) -> None:
    """Seed the global generators of PyTorch, NumPy and Python from numbers such as (seed, epoch, rank)."""
    seed = distrib.shared_generator(*numbers).initial_seed() % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def resolve_device(name: str) -> torch.device:
    """The device that `device=` names; `auto` is CUDA when there is one.

    Raises:
        ConfigError: for a name that PyTorch does not know, or CUDA where there is none.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device={name}: expected auto, cpu, cuda or cuda:N') from error
    if device.type == 'cuda':
        if not torch.cuda.is_available():
            raise ConfigError(f'device={name}: PyTorch finds no CUDA device here; use device=cpu or device=auto')
        if device.index is None:
            device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
    return device


def experiment_folder(sig: str) -> Path:
    """The folder of the experiment with signature `sig`: beside the running experiment, else where experiments live."""
    root = Path(dora.get_xp().dora.dir) if dora.is_xp() else paths.experiments_folder()
    return root / 'xps' / sig


class StandardSolver(flashy.BaseSolver, ABC):
    """Epochs of stages over Flashy, within a Dora experiment.

    A concrete solver builds its parts in `build`, registers what shapes the next update with `register_stateful`, and
    gives its stages as methods (`train`, `valid`, `evaluate`, `generate`) that return the means of their metrics.

    Args:
        cfg: a resolved and validated configuration.
    """

    STAGES = SPLITS  # each stage reads the split of its name

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.logger = logger
        self.result_logger = ResultLogger(self.logger)
        self.device = resolve_device(cfg.device)
        # Numbers near zero, as decaying signals make them, slow a CPU's convolutions by ten. Threads started later
        # inherit this.
        torch.set_flush_denormal(True)
        if self.device.type == 'cpu':
            allocator.keep_freed_memory()
        self._start_workers()
        self.updates = 0  # done since the very first epoch
        self.register_stateful('updates')
        seed_everything(cfg.seed)
        self.build()
        self.tracker: Tracker | None = None

    def _start_workers(self) -> None:
        from dora.distrib import get_distrib_spec
        from dora.distrib import init as init_process_group

        local_workers = get_distrib_spec().world_size if self.device.type == 'cpu' else 1
        if self.cfg.num_threads:
            torch.set_num_threads(self.cfg.num_threads)
        elif local_workers > 1:  # they would each take every core, and wait for one another
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_workers))
        init_process_group('nccl' if self.device.type == 'cuda' else 'gloo')

    # ---- parts ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> None:
        """Make the model and all else that a run needs, and register its state."""

    @abstractmethod
    def show(self, brief: bool = False) -> str:
        """A description of the model: parts, sizes, rates; `brief` leaves the layers out."""

    @cached_property
    def dataloaders(self) -> dict[str, Any]:
        """A loader for each stage that has data; made on first use."""
        loaders = sources.build_dataloaders(self.cfg, self.device)
        if self.cfg.benchmark_no_load:
            return {**loaders, 'train': sources.RepeatFirst(loaders['train'])}
        return {**loaders}

    # ---- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Every registered part; Flashy's own entries for the configuration and signature are kept apart."""
        return {name: value for name, value in super().state_dict().items() if not name.startswith('xp.')}

    def commit(self, save_checkpoint: bool = True) -> None:
        """Close the epoch: append its metrics to the history and save the checkpoint, atomically."""
        self.history.append(self._pending_metrics)
        self._start_epoch()
        if not distrib.is_rank_zero():
            return
        if save_checkpoint:
            content = {
                'format': checkpoint.CHECKPOINT_FORMAT, 'version': checkpoint.VERSION, 'sig': self.xp.sig,
                'epoch': len(self.history), 'config': OmegaConf.to_yaml(self.cfg, resolve=True),
                'state': self.state_dict(),
            }
            checkpoint.save(content, self.checkpoint_path)
            self._keep_checkpoint(len(self.history))
        self.xp.link.update_history(self.history)

    def _keep_checkpoint(self, epoch: int) -> None:
        every = self.cfg.checkpoint.save_every
        if not every or epoch % every:
            return
        kept = self.folder / f'checkpoint_{epoch}.th'
        kept.unlink(missing_ok=True)
        try:
            os.link(self.checkpoint_path, kept)  # the same bytes: the latest is replaced, never written to
        except OSError:
            shutil.copyfile(self.checkpoint_path, kept)
        checkpoint.prune(self.folder, 'checkpoint_*.th', self.cfg.checkpoint.keep_last)

    def restore(self) -> bool:
        """Continue from this experiment's last checkpoint, if there is one.

        Raises:
            ValueError: if the checkpoint cannot be read or was written with parts of other names or shapes.
        """
        if not self.checkpoint_path.exists():
            return False
        content = checkpoint.load_checkpoint(self.checkpoint_path)
        state = content['state']
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            raise ValueError(f"{self.checkpoint_path} lacks {', '.join(missing)}: it was written by another recipe; "
                             'start afresh with `dora run --clear ...`')
        self._load(state, self.checkpoint_path)
        return True

    def _load(self, state: dict[str, Any], source: object) -> None:
        try:
            self.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise ValueError(f'{source} does not fit the configured model: {error}') from error

    @abstractmethod
    def initialize_from(self, source: str) -> None:
        """Start from the weights of `continue_from`; only called where there is no checkpoint of this experiment."""

    # ---- epochs and stages ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch, or run the one stage that `execute_only` names, from the last checkpoint."""
        if self.cfg.show:
            print(self.show())
            return
        with config.shown_as_messages():
            resumed = self.prepare()
        self.logger.info('\n%s', self.show(brief=True))
        self.replay_history()
        if self.cfg.execute_only:
            if not resumed and self.cfg.continue_from is None:
                self.logger.warning('execute_only=%s: there is no checkpoint in %s, the model is untrained',
                                    self.cfg.execute_only, self.folder)
            self.run_stage(self.cfg.execute_only, getattr(self, self.cfg.execute_only))
            return
        while self.epoch <= self.cfg.optim.epochs:
            self.run_epoch()
            self.commit()
        self.logger.info('done: %d epochs, %d updates, in %s', len(self.history), self.updates, self.folder)

    def prepare(self) -> bool:
        """All that can fail for a reason that a user can mend: checkpoint, other weights, data, trackers.

        Returns:
            Whether the run continues from a checkpoint of its own.
        """
        resumed = self.restore()
        if not resumed and self.cfg.continue_from is not None:
            self.initialize_from(self.cfg.continue_from)
        assert self.dataloaders  # made now, not at the first batch
        if distrib.is_rank_zero():
            self.tracker = Tracker(self.cfg, self.folder, self.xp.sig)
        return resumed

    def replay_history(self) -> None:
        """Log the summaries of past epochs again, so that a resumed run's log tells the whole story."""
        for epoch, stages in enumerate(self.history, start=1):
            for stage, metrics in stages.items():
                self.result_logger._log_summary(stage, metrics, epoch, formatter=self.get_formatter(stage))
        if self.history:
            self.logger.info('resuming after epoch %d', len(self.history))

    def run_epoch(self) -> None:
        """One epoch: training, then the stages that are due."""
        # Third-party code that draws from the global generators draws the same after a resume.
        seed_everything(self.cfg.seed, self.epoch, distrib.rank())
        for stage in self.STAGES:
            if self.is_due(stage):
                self.run_stage(stage, getattr(self, stage))

    def is_due(self, stage: str) -> bool:
        """Whether the stage runs in this epoch: every epoch for train, every `STAGE.every` and the last for others."""
        if stage == 'train':
            return True
        every = self.cfg[stage].every
        if not every or stage not in self.dataloaders:
            return False
        return self.epoch % every == 0 or self.epoch == self.cfg.optim.epochs

    def progress(self, stage: str, loader: Iterable[T],
                 metrics: Callable[[], dict[str, float]] | None = None) -> Progress[T]:
        """A live bar on a terminal, evenly spaced lines in the log, with the metrics so far."""
        bar = Progress(loader, desc=f'{stage.capitalize()} | Epoch {self.epoch}', updates=self.cfg.logging.log_updates,
                       logger=self.logger, enabled=distrib.is_rank_zero())
        if metrics is not None:
            bar.set_postfix(lambda: self.get_formatter(stage)(metrics()))
        return bar

    def get_formatter(self, stage_name: str) -> flashy.Formatter:
        """How metrics are written in the log."""
        return flashy.Formatter({'lr': '.2e', '*accuracy*': '.1%', '*usage*': '.1%', 'bandwidth': '.2f',
                                 'duration': '.1f'}, default_format='.4g')

    def log_metrics(self, stage_name: str, metrics: dict[str, Any], formatter: flashy.Formatter | None = None) -> None:
        """Log a stage's metrics; all workers hold the same."""
        if distrib.is_rank_zero():
            super().log_metrics(stage_name, metrics, formatter)
            if self.tracker is not None:
                self.tracker.scalars(stage_name, metrics, self.epoch)
        else:
            self._pending_metrics[stage_name] = metrics

    @property
    def folder(self) -> Path:
        """The experiment's folder."""
        return Path(super().folder)

    @property
    def checkpoint_path(self) -> Path:
        """The latest checkpoint."""
        return self.folder / 'checkpoint.th'


