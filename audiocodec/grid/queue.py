"""The queue of a local grid: starts experiments as slots become free, until all have ended."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from audiocodec.grid.jobs import Job
from audiocodec.grid.slots import Slots

logger = logging.getLogger('audiocodec')

_POLL = 0.2  # seconds between two looks at the running jobs
_SHOWN_LINES = 20  # of the log of a failed experiment
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Queue:
    """Runs jobs in their order; one that fails does not end the others.

    Args:
        jobs: the jobs.
        slots: where they run.
        show: shows the state of all jobs.
        interval: seconds between two calls of `show`, which also follows every start and end.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Slots,
        show: Callable[[], None],
        interval: float,
    ) -> None:
        self.jobs = list(jobs)
        self.slots = slots
        self._show = show
        self._interval = interval
        self._waiting = [job for job in jobs if not job.is_done()]
        self._asked = 0  # number of requests to stop

    def run(self) -> None:
        """Run all jobs.

        The first Ctrl-C, SIGTERM or SIGHUP stops the experiments, each of which saves its state;
        the second one kills them.
        """
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._note)
        try:
            self._run()
        finally:
            for job in self.jobs:
                job.kill()  # only after an error of ours is one still running
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _run(self) -> None:
        shown = -self._interval
        obeyed = 0
        while not all(job.is_done() for job in self.jobs):
            if obeyed < self._asked:
                obeyed = self._asked
                self._stop(obeyed)
            changed = self._collect() | self._start()
            if changed or time.monotonic() - shown >= self._interval:
                self._show()
                shown = time.monotonic()
            time.sleep(_POLL)
        self._show()

    def _start(self) -> bool:
        """Start the first waiting jobs, as long as there is room for the next one."""
        started = False
        while self._waiting:
            job = self._waiting[0]
            variables = self.slots.take(job.xp.sig, job.gpus)
            if variables is None:
                break
            del self._waiting[0]
            job.start(variables)
            started = True
        return started

    def _collect(self) -> bool:
        """Return the slots of jobs that have ended, and show the errors of failed ones."""
        ended = [job for job in self.jobs if job.poll()]
        for job in ended:
            self.slots.give_back(job.xp.sig)
            if job.state() == 'FAILED':
                lines = '\n'.join(f'    {line}' for line in job.last_lines(_SHOWN_LINES))
                logger.error('%s failed; the end of %s:\n%s', job.xp.sig, job.log, lines)
        return bool(ended)

    def _stop(self, request: int) -> None:
        if request == 1:
            logger.warning(
                'stopping: running experiments save their state (press Ctrl-C again to kill them)'
            )
        self._waiting.clear()
        for job in self.jobs:
            job.stop()
            if request > 1:
                job.kill()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
