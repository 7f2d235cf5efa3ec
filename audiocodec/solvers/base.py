"""What every solver shares: stages, epochs, the state that makes resuming exact, checkpoints,
progress, tracking.
"""

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
from audiocodec.run.tracking import Tracker
from audiocodec.run.workers import WorkerWatch
from audiocodec.solvers import figures, loaders, precision
from audiocodec.solvers.state import StatefulSolver
from audiocodec.utils import config, distrib
from audiocodec.utils.errors import RunError
from audiocodec.utils.progress import Progress

_SETTLED = 2  # updates after which memory no longer grows: optimizers have their moments
_STAGE, _UPDATE = 1, 2  # purposes of the seeds of the global generators; see also `SEED_PURPOSE`


class _AbandonedStageError(Exception):
    """Leaves a stage that will be run again."""


def _with_messages(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader; what is wrong with the data is a message, without a traceback."""
    try:
        yield from loader
    except (ValueError, LoaderDiedError) as error:
        raise RunError(str(error)) from error


class StandardSolver(StatefulSolver):
    """Epochs of stages over Flashy, within a Dora experiment.

    A concrete solver takes its parts in `build`, registers what shapes the next update with
    `register_stateful`, and gives its stages as methods (`train`, `valid`, `evaluate`, `generate`)
    that return the means of their metrics.

    Args:
        cfg: a resolved configuration.
        parts: what it builds, see `recipe.parts.build_parts`, which checks it too.
    """

    STAGES = SPLITS  # each stage reads the split of its name

    def __init__(self, cfg: DictConfig, parts: Parts) -> None:
        place = launch.find_place()
        super().__init__(cfg, resolve_device(cfg.device, place))
        # Denormal numbers, as in decaying signals, slow a CPU's convolutions tenfold. Threads
        # started later inherit this.
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
        self._updates_here = 0  # done by this process
        self._runs_alone = False  # a stage, on the weights of a past epoch
        with self.watch.ending_together():
            self.build(parts)

    # ---- parts -----------------------------------------------------------------------------------

    @abstractmethod
    def build(self, parts: Parts) -> None:
        """Take the parts, make what else a run needs, and register its state."""

    @abstractmethod
    def show(self, brief: bool = False) -> str:
        """A description of the model: parts, sizes, rates; `brief` leaves the layers out."""

    @cached_property
    def dataloaders(self) -> dict[str, Any]:
        """A loader for each stage that has data; made on first use."""
        made = loaders.build_dataloaders(self.cfg, self.device)
        if self.cfg.benchmark_no_load:
            return {**made, 'train': loaders.RepeatFirst(made['train'])}
        return {**made}

    @abstractmethod
    def initialize_from(self, source: str) -> None:
        """Start from the weights of `continue_from`; only called where there is no checkpoint of
        this experiment.
        """

    # ---- epochs and stages -----------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last epoch, or run the one stage that `execute_only` names, from the last
        checkpoint.

        Raises:
            RunError: the run cannot go on, or (`InterruptedRunError`) was asked to stop; what is
                saved is intact.
        """
        if self.cfg.show:
            print(self.show())
            self.watch.finish()
            return
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
                'execute_only=%s: there is no checkpoint in %s, the model is untrained',
                stage,
                self.folder,
            )
        # Between two epochs, the weights are those of the last one.
        self._runs_alone = not self.batches and not self._pending_metrics
        self._start_epoch()  # the stage may be one that a checkpoint inside an epoch has done
        self.run_stage(stage, getattr(self, stage))
        self.failures.sync()
        if self.failures.counts:  # beside training a warning, but here it is all that was asked for
            raise RunError(f'execute_only={stage}: failed: {self.failures}')

    def _run_epochs(self) -> None:
        with config.shown_as_messages():
            resumed = self.prepare()
        self.logger.info('\n%s', self.show(brief=True))
        self.replay_history()
        if resumed and not self.batches and not self._pending_metrics:
            self._keep_records()  # it may have been interrupted just before
        while self.epoch <= self.cfg.optim.epochs:
            self.run_epoch()
            self.commit()
        self.logger.info(
            'done: %d epochs, %d updates, in %s', len(self.history), self.updates, self.folder
        )
        if self.failures.counts:
            self.logger.warning('failed beside training: %s', self.failures)

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Within it, no other run writes to the experiment's folder; every worker learns whether
        that is so.
        """
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
        """All that can fail for a reason that a user can mend: checkpoint, other weights, data,
        trackers.

        Returns:
            Whether the run continues from a checkpoint of its own.
        """
        resumed = self.restore()
        if not resumed and self.cfg.continue_from is not None:
            self.initialize_from(self.cfg.continue_from)
        assert self.dataloaders  # made now, not at the first batch
        if distrib.is_rank_zero():
            self.tracker = Tracker(
                self.cfg, self.folder, self.xp.sig, None if self.cfg.execute_only else self.updates
            )
        return resumed

    def replay_history(self) -> None:
        """Log the summaries of past epochs again, so that a resumed run's log tells the whole
        story.
        """
        for epoch, stages in enumerate([*self.history, self._pending_metrics], start=1):
            for stage, metrics in stages.items():
                self._log_line(stage, metrics, epoch)
        if self.history or self.batches:
            self.logger.info('resuming at %s', self._place())

    def _place(self) -> str:
        """Where the run is, for people."""
        done = (
            [f'after batch {self.batches}']
            if self.batches and 'train' not in self._pending_metrics
            else []
        )
        done += [f'after {stage}' for stage in list(self._pending_metrics)[-1:]]
        return f'epoch {self.epoch}' + (f', {done[0]}' if done else '')

    def run_epoch(self) -> None:
        """One epoch, or what is left of it: training, then the stages that are due."""
        for number, stage in enumerate(self.STAGES):
            if stage in self._pending_metrics or not self.is_due(stage):
                continue
            # Third-party code that draws from the global generators draws the same after a resume.
            seed_everything(self.cfg.seed, _STAGE, self.epoch, number, distrib.rank())
            with suppress(_AbandonedStageError):
                self.run_stage(stage, getattr(self, stage))
            if any(distrib.all_gather_object(self.interrupts.received)):
                self._stop()

    def training_batches(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """The batches of this epoch that are left: (wav float [B, C, T] on the host, where its
        items are from).
        """
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
        """Close an update: its metrics, whether it counted, and whether it is time for a checkpoint
        or to stop.

        Args:
            metrics: tensors, see `Averager`.
            skipped: 0-d, boolean: whether the update changed nothing, not being finite; the same on
                every worker.
            wav: the batch, on the host.
            infos: where its items are from.
        """
        self.batches += 1
        self._updates_here += 1
        if self._updates_here == _SETTLED:
            self._log_memory()
        self.means.update(metrics, where=~skipped)
        self.means.update({'skipped': skipped})
        self._asked_to_stop |= self.guard.follow(
            self.updates, metrics, skipped, bool(self.interrupts.received), wav, infos
        )
        if self.tracker is not None and self._every(self.cfg.logging.every_updates):
            figures = {**self.means.read_recent(), **self.current_figures()}
            self.tracker.scalars('updates', figures, self.updates, self.epoch)
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

    def current_figures(self) -> dict[str, float]:
        """Figures of the training that are no means over updates, such as the learning rate."""
        return {}

    def _stop(self) -> None:
        """Save and end, as a signal asked."""
        self.save_checkpoint()
        self.watch.finish()  # the first worker may leave before the others
        self.interrupts.obey(self._place())

    def batches_of(
        self, stage: str, metrics: Callable[[], dict[str, float]] | None = None
    ) -> Iterator[Any]:
        """The batches of a stage other than training.

        Alone, a worker leaves the stage as soon as it is asked to stop: it changes nothing that a
        checkpoint holds. Several finish it, since they have not the same number of batches at which
        to agree.
        """
        for batch in self.progress(stage, self.dataloaders[stage], metrics):
            if self.interrupts.received and distrib.world_size() == 1:
                raise _AbandonedStageError
            yield batch

    def is_due(self, stage: str) -> bool:
        """Whether the stage runs in this epoch: every epoch for train, every `STAGE.every` and the
        last for others.
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
        """A live bar on a terminal, evenly spaced lines in the log, with the metrics so far."""
        return Progress(
            _with_messages(loader),
            total=len(loader),
            desc=f'{stage.capitalize()} | Epoch {self.epoch}',
            lines=self.cfg.logging.log_updates,
            interval=self.cfg.logging.log_seconds,
            initial=initial,
            figures=None if metrics is None else lambda: self._figures(stage, metrics()),
            logger=self.logger,
            enabled=distrib.is_rank_zero(),
        )

    def get_formatter(self, stage_name: str) -> flashy.Formatter:
        """Choose the metrics in the log (`logging.metrics`), and how they are written."""
        return figures.make_formatter(self.cfg.logging.metrics)

    def _figures(self, stage: str, metrics: dict[str, float]) -> dict[str, str]:
        """The metrics of a line, as text."""
        return figures.select(self.get_formatter(stage), self.cfg.logging.metrics, metrics)

    def _log_line(self, stage: str, metrics: dict[str, Any], epoch: int) -> None:
        """Log the line of an epoch and stage."""
        texts = [f'{name} {text}' for name, text in self._figures(stage, metrics).items()]
        if texts:
            self.logger.info('%s', '  '.join([f'Epoch {epoch} {stage}', *texts]))

    def log_metrics(
        self, stage_name: str, metrics: dict[str, Any], formatter: flashy.Formatter | None = None
    ) -> None:
        """Log a stage's metrics; all workers hold the same."""
        self._pending_metrics[stage_name] = metrics
        if distrib.is_rank_zero():
            self._log_line(stage_name, metrics, self.epoch)
            if self.tracker is not None:
                self.tracker.scalars(stage_name, metrics, self.updates, self.epoch)

    @property
    def epoch(self) -> int:
        """The epoch that is running; for a stage that runs alone, the one that its weights are
        from.
        """
        return len(self.history) + (0 if self._runs_alone else 1)
