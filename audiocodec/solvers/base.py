"""The training loop that solvers share: epochs, stages, resume, interruption, progress, logs."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import flashy
import torch
from omegaconf import DictConfig

from audiocodec import kernels
from audiocodec.data import SPLITS, AudioLoader, LoaderDiedError
from audiocodec.kernels import allocator
from audiocodec.recipe.parts import Parts
from audiocodec.run import checkpoint, launch
from audiocodec.run.device import peak_memory, resolve_device, seed_everything
from audiocodec.run.interrupts import Interrupts
from audiocodec.run.lock import FolderLock
from audiocodec.run.trackers import Tracker
from audiocodec.run.workers import WorkerWatch
from audiocodec.solvers import figures, loaders, precision
from audiocodec.solvers.state import StatefulSolver
from audiocodec.utils import config, distrib
from audiocodec.utils.errors import RunError
from audiocodec.utils.progress import Progress

# Updates after which memory no longer grows: the optimizers have allocated their moments.
_UPDATES_TO_PEAK = 2
# Purposes of the seeds of the global generators; see also `recipe.parts.SEED_PURPOSE`.
_STAGE, _UPDATE = 1, 2


class _AbandonedStageError(Exception):
    """Leaves a stage early; it is run again after a resume."""


def _with_run_errors(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterate over a loader; problems of the data become `RunError`s, shown without traceback."""
    try:
        yield from loader
    except (ValueError, LoaderDiedError) as error:
        raise RunError(str(error)) from error


class StandardSolver(StatefulSolver):
    """Solver with epochs of stages, built on Flashy, within a Dora experiment.

    A subclass takes its parts in `build`, registers everything that affects the next update with
    `register_stateful`, and implements its stages as methods (`train`, `valid`, `evaluate`,
    `generate`) that return the means of their metrics.

    Args:
        cfg: a resolved configuration.
        parts: its components, from `recipe.parts.build_parts`.
    """

    STAGES = SPLITS  # each stage reads the split of the same name

    def __init__(self, cfg: DictConfig, parts: Parts) -> None:
        place = launch.find_place()
        super().__init__(cfg, resolve_device(cfg.device, place))
        # Denormal numbers, as in decaying signals, make convolutions on a CPU ten times slower.
        # Must come before threads are started, which inherit the setting.
        torch.set_flush_denormal(True)
        kernels.use(cfg.cpu_kernels)
        if self.device.type == 'cpu':
            allocator.keep_freed_memory()
        launch.join_workers(place, self.device, cfg.distributed.timeout)
        precision.set_up(cfg.precision, self.device)
        torch.set_num_threads(cfg.num_threads or launch.share_of_threads(place))
        self.watch = WorkerWatch(place, cfg.distributed.timeout)
        self.interrupts = Interrupts()
        self.tracker: Tracker | None = None
        self._updates_here = 0  # updates of this process, since the start or resume
        self._between_epochs = False  # a single stage runs on the weights of a complete epoch
        with self.watch.ending_together():
            self.build(parts)

    # ---- parts -----------------------------------------------------------------------------------

    @abstractmethod
    def build(self, parts: Parts) -> None:
        """Take the parts, create optimizers and the like, and register their state."""

    @abstractmethod
    def show(self, brief: bool = False) -> str:
        """Describe the model: parts, sizes, rates; without its layers if `brief`."""

    @cached_property
    def dataloaders(self) -> dict[str, Any]:
        """Loaders by stage, for the stages that have data; created on first use."""
        created = loaders.build_dataloaders(self.cfg, self.device)
        if self.cfg.benchmark_no_load:
            return {**created, 'train': loaders.RepeatFirst(created['train'])}
        return {**created}

    @abstractmethod
    def initialize_from(self, source: str) -> None:
        """Start from the weights of `continue_from`; not called when a run resumes."""

    # ---- epochs and stages -----------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch, or run only the stage named by `execute_only`.

        Both start from the last checkpoint, if there is one.

        Raises:
            RunError: the run cannot continue, or (`InterruptedRunError`) was asked to stop; the
                last checkpoint is intact.
        """
        with self.watch.ending_together():
            if self.cfg.execute_only:
                self._run_only(self.cfg.execute_only)
            else:
                with self._locked_folder(), self.interrupts:
                    self._run_epochs()
            if self.tracker is not None:
                self.tracker.close()
        self.watch.finish()

    def _run_only(self, stage: str) -> None:
        with config.shown_as_messages():
            resumed = self.prepare()
        self.logger.info('\n%s', self.show(brief=True))
        if not resumed and self.cfg.continue_from is None:
            self.logger.warning(
                'execute_only=%s: no checkpoint in %s, the model is untrained',
                stage,
                self.folder,
            )
        self._between_epochs = not self.batches and not self._pending_metrics
        # A checkpoint inside an epoch may already hold metrics of this stage: drop them.
        self._start_epoch()
        self.run_stage(stage, getattr(self, stage))
        self.failures.sync()
        # During training a failed metric or sample is a warning. Here it is what was asked for.
        if self.failures.counts:
            raise RunError(f'execute_only={stage}: failed: {self.failures}')

    def _run_epochs(self) -> None:
        with config.shown_as_messages():
            resumed = self.prepare()
        self.logger.info('\n%s', self.show(brief=True))
        self.replay_history()
        if resumed and not self.batches and not self._pending_metrics:
            self._keep_records()  # the run may have ended between the checkpoint and its copies
        epochs = self.cfg.optim.epochs
        if self.epoch > epochs:
            self.logger.warning(
                'all %d epochs are done already, nothing is trained: set optim.epochs=%d to '
                'continue, or execute_only=evaluate to run a stage on the last checkpoint',
                epochs,
                epochs + 1,
            )
        while self.epoch <= epochs:
            self.run_epoch()
            self.commit()
        self.logger.info(
            'done: %d epochs, %d updates, in %s', len(self.history), self.updates, self.folder
        )
        if self.failures.counts:
            self.logger.warning('failures besides training: %s', self.failures)

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Prevent other runs from writing to the experiment's folder."""
        lock = FolderLock(self.folder, f'experiment {self.xp.sig}')
        distrib.from_rank_zero(lock.acquire)
        try:
            if distrib.is_rank_zero():
                with self.failures.caught('removing temporary files'):
                    checkpoint.remove_leftovers(self.checkpoint_path)
            yield
        finally:
            lock.release()

    def prepare(self) -> bool:
        """Load checkpoint or initial weights, and open data and trackers.

        These fail for reasons that a user can fix, so they come before the first update.

        Returns:
            Whether the run resumes from its own checkpoint.
        """
        resumed = self.restore()
        if not resumed and self.cfg.continue_from is not None:
            self.initialize_from(self.cfg.continue_from)
        assert self.dataloaders  # created now, not at the first batch
        if distrib.is_rank_zero():
            # The trackers drop points after the update at which the run resumes.
            resume_at = None if self.cfg.execute_only else self.updates
            self.tracker = Tracker(self.cfg, self.folder, self.xp.sig, resume_at)
        return resumed

    def replay_history(self) -> None:
        """Log the metrics of past epochs again, so that the log of a resumed run is complete."""
        for epoch, stages in enumerate([*self.history, self._pending_metrics], start=1):
            for stage, metrics in stages.items():
                self._log_line(stage, metrics, epoch)
        if (self.history or self.batches) and self.epoch <= self.cfg.optim.epochs:
            self.logger.info('resuming at %s', self._position_text())

    def _position_text(self) -> str:
        """Describe the position of the run, e.g. "epoch 3, after batch 120"."""
        text = f'epoch {self.epoch}'
        if self._pending_metrics:
            return f'{text}, after {list(self._pending_metrics)[-1]}'
        return f'{text}, after batch {self.batches}' if self.batches else text

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of it: training, then the stages that are due."""
        for number, stage in enumerate(self.STAGES):
            if stage in self._pending_metrics or not self.is_due(stage):
                continue
            # Reseed, so that code that draws from the global generators draws the same after a
            # resume as without interruption.
            seed_everything(self.cfg.seed, _STAGE, self.epoch, number, distrib.rank())
            with suppress(_AbandonedStageError):
                self.run_stage(stage, getattr(self, stage))
            # Workers receive signals at different times: all stop if one was asked to.
            if any(distrib.all_gather_object(self.interrupts.received)):
                self._stop()

    def training_batches(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """Yield the remaining batches of this epoch: (wav float [B, C, T] on the host, infos)."""
        loader = self.dataloaders['train']
        loader.set_epoch(self.epoch, self.batches)
        if self.batches and self._bad_files is not None:
            loader.bad_files.load_state_dict(self._bad_files)
        for wav, infos in self.progress('train', loader, self.means.read, initial=self.batches):
            seed_everything(self.cfg.seed, _UPDATE, self.updates, distrib.rank())
            yield wav, infos

    def end_update(
        self, metrics: dict[str, torch.Tensor], skipped: torch.Tensor, wav: torch.Tensor, infos: Any
    ) -> None:
        """Finish an update: record its metrics, and save a checkpoint or stop when due.

        Args:
            metrics: tensors, see `Averager`; with `overflow`, 0-d, boolean, True if the update was
                skipped only because of the loss scale of float16, which is part of its search.
            skipped: 0-d, boolean: True if the update was not finite and therefore changed nothing.
                The same on every worker.
            wav: the batch, on the host.
            infos: file and position of each item.
        """
        self.batches += 1
        self._updates_here += 1
        if self._updates_here == _UPDATES_TO_PEAK:
            self._log_memory()
        flags, counted = {'skipped': skipped}, skipped
        if 'overflow' in metrics:
            flags['overflow'] = metrics.pop('overflow')
            counted = skipped & ~flags['overflow']
        self.means.update(metrics, where=~skipped)
        self.means.update(flags)
        # On a GPU, the guard learns the outcome two updates later, so as not to wait for it.
        self._asked_to_stop |= self.guard.follow(
            self.updates, metrics, counted, bool(self.interrupts.received), wav, infos
        )
        if self.tracker is not None and self._every(self.cfg.logging.every_updates):
            values = {**self.means.read_recent(), **self.learning_rates()}
            self.tracker.scalars('updates', values, self.updates, self.epoch)
        if self._asked_to_stop:
            self._stop()
        elif self._every(self.cfg.checkpoint.every_updates):
            self.save_checkpoint()

    def _log_memory(self) -> None:
        peak = peak_memory(self.device)
        if peak is not None:
            self.logger.info('peak memory of an update: %.2f GiB on %s', peak, self.device)

    def _every(self, updates: int | None) -> bool:
        return updates is not None and self.updates % updates == 0

    def learning_rates(self) -> dict[str, float]:
        """Return the current learning rates, by the names of their metrics."""
        return {}

    def _stop(self) -> None:
        """Save a checkpoint and end the run, as a signal asked."""
        self.save_checkpoint()
        self.watch.finish()  # from here on, workers may end at different times
        self.interrupts.obey(self._position_text())

    def batches_of(
        self, stage: str, metrics: Callable[[], dict[str, float]] | None = None
    ) -> Iterator[Any]:
        """Yield the batches of a stage other than training.

        When asked to stop, a single worker leaves the stage at once: the stage changes nothing that
        a checkpoint holds. Several workers finish it, since they may have different numbers of
        batches and could not agree on where to stop.
        """
        for batch in self.progress(stage, self.dataloaders[stage], metrics):
            if self.interrupts.received and distrib.world_size() == 1:
                raise _AbandonedStageError
            yield batch

    def is_due(self, stage: str) -> bool:
        """True if a stage runs in this epoch: `train` always, others every `STAGE.every` epochs.

        Stages that are not off also run in the last epoch.
        """
        if stage == 'train':
            return True
        every = self.cfg[stage].every
        if not every or stage not in self.dataloaders:
            return False
        return self.epoch % every == 0 or self.epoch == self.cfg.optim.epochs

    def progress(
        self,
        stage: str,
        loader: AudioLoader | loaders.RepeatFirst,
        metrics: Callable[[], dict[str, float]] | None = None,
        initial: int = 0,
    ) -> Progress[Any]:
        """Wrap a loader to show progress and metrics: a bar on a terminal, lines in the log."""
        return Progress(
            _with_run_errors(loader),
            total=len(loader),
            desc=f'{stage.capitalize()} | Epoch {self.epoch}',
            lines=self.cfg.logging.log_updates,
            interval=self.cfg.logging.log_seconds,
            initial=initial,
            figures=None if metrics is None else lambda: self._formatted(stage, metrics()),
            logger=self.logger,
            enabled=distrib.is_rank_zero(),
        )

    def get_formatter(self, stage_name: str) -> flashy.Formatter:
        """Return the formatter of the metrics in the log, which `logging.metrics` selects."""
        return figures.make_formatter(self.logged_metrics(stage_name))

    def logged_metrics(self, stage: str) -> list[str]:
        """Return names and patterns of the metrics in a line of the log, in their order."""
        return list(self.cfg.logging.metrics)

    def _formatted(self, stage: str, metrics: dict[str, float]) -> dict[str, str]:
        """Select and format the metrics of a line."""
        patterns = self.logged_metrics(stage)
        return figures.select(self.get_formatter(stage), patterns, metrics)

    def _log_line(self, stage: str, metrics: dict[str, Any], epoch: int) -> None:
        """Log the metrics of a stage in one line."""
        texts = [f'{name} {text}' for name, text in self._formatted(stage, metrics).items()]
        if texts:
            self.logger.info('%s', '  '.join([f'Epoch {epoch} {stage}', *texts]))

    def log_metrics(
        self, stage_name: str, metrics: dict[str, Any], formatter: flashy.Formatter | None = None
    ) -> None:
        """Log a stage's metrics, which are the same on all workers."""
        # In place of Flashy's own loggers.
        self._pending_metrics[stage_name] = metrics
        if distrib.is_rank_zero():
            self._log_line(stage_name, metrics, self.epoch)
            if self.tracker is not None:
                self.tracker.scalars(stage_name, metrics, self.updates, self.epoch)

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; for a single stage between epochs, that of the weights."""
        return len(self.history) + (0 if self._between_epochs else 1)
