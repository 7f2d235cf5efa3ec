"""Stop signals: recorded when they arrive, handled between two updates, when the state is valid."""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from audiocodec.utils import distrib
from audiocodec.utils.errors import InterruptedRunError

logger = logging.getLogger('audiocodec')

# Slurm's preemption sends SIGTERM. Before the time limit, Slurm sends the signal that the job
# requested: USR2 by default in submitit (and Dora), or USR1.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# seconds to wait for the first worker to requeue the job, which ends the others
_REQUEUED = 60.0
_SCONTROL = 10.0  # seconds that Slurm's controller may take to answer


class Interrupts:
    """Context manager with handlers of `SIGNALS`; does nothing outside the main thread."""

    def __init__(self) -> None:
        self.received = 0  # number of the signal, 0 for none
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interrupts':
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def obey(self, saved: str) -> None:
        """End the run after its checkpoint was saved, by the launcher's handler or by an error.

        A job of Slurm that is preempted with a grace time would end for good if it ended within
        that time: it is requeued here.

        On the time-limit signal, submitit calls Dora's hook (`checkpoint` of its target, with the
        callbacks registered in `dora.shep`), requeues the job and exits. It would do so in the
        middle of an update; here its handler is called when the state is on disk.

        Args:
            saved: where the run will resume, for the message.

        Raises:
            InterruptedRunError: always, unless the launcher exits first.
        """
        number = max(distrib.all_gather_object(self.received))
        name = signal.Signals(number).name
        logger.warning('%s: stopped at %s; the same command resumes from there', name, saved)
        if number == signal.SIGTERM and distrib.from_rank_zero(_requeue_if_preempted):
            logger.warning('the job was preempted, and is requeued')
        requeue: Callable[[int, FrameType | None], None] | Any = self._before.get(number)
        if number != signal.SIGTERM and callable(requeue):
            requeue(number, None)
            time.sleep(_REQUEUED)
        raise InterruptedRunError(
            f'stopped by {name} at {saved}; the same command resumes from there', number
        )


def _requeue_if_preempted() -> bool:
    """Requeue this job of Slurm if it is in the grace time of a preemption, not if canceled."""
    job = os.environ.get('SLURM_JOB_ID')
    if job is None:
        return False
    with suppress(OSError, subprocess.SubprocessError):
        shown = _scontrol('show', 'job', job)
        preempted = re.search(r'\bPreemptTime=(?!None|Unknown)\S', shown)
        if preempted and 'JobState=RUNNING' in shown:
            _scontrol('requeue', job)
            return True
    return False


def _scontrol(*arguments: str) -> str:
    done = subprocess.run(
        ['scontrol', *arguments], capture_output=True, text=True, check=True, timeout=_SCONTROL
    )
    return done.stdout
