"""Signals that ask a run to stop: noted when they come, obeyed between two updates, when the state
is whole.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from audiocodec.utils import distrib
from audiocodec.utils.errors import InterruptedRunError

logger = logging.getLogger('audiocodec')

# Slurm's preemption sends SIGTERM; its warning before the time limit is the signal that the job
# asked for: USR2 by submitit's (and so Dora's) default, or USR1.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# seconds in which the first worker puts the job back into the queue, which ends the others
_REQUEUED = 60.0


class Interrupts:
    """Handlers of `SIGNALS` for as long as a run lasts (`with`); in a thread other than the main
    one, nothing.
    """

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
        """End the run, its checkpoint being saved: by the launcher's own way where it has one, else
        by an error.

        submitit handles the time-limit signal by Dora's hook (`checkpoint` of its target, with the
        callbacks registered in `dora.shep`), puts the job back into the queue and exits. It would
        do that in the middle of an update; here it is called when the state is on the disk.

        Args:
            saved: where the run will go on, for the message.

        Raises:
            InterruptedRunError: always, unless the launcher exits first.
        """
        number = max(distrib.all_gather_object(self.received))
        name = signal.Signals(number).name
        logger.warning('%s: stopped at %s; the same command goes on from there', name, saved)
        requeue: Callable[[int, FrameType | None], None] | Any = self._before.get(number)
        if number != signal.SIGTERM and callable(requeue):
            requeue(number, None)
            time.sleep(_REQUEUED)
        raise InterruptedRunError(
            f'stopped by {name} at {saved}; the same command goes on from there', number
        )
