"""What the workers of one run owe each other: when one fails or dies, all end within a minute, with the first error.

A collective that a worker does not join would keep the others waiting. So each worker has a thread that writes a pulse
into a folder on the file system which the workers share anyway, and looks at the others' pulses. A worker that fails
leaves its error there; the first one stands for the run.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from torch import distributed

from audiocodec.utils import distrib
from audiocodec.utils.errors import InterruptedRunError, RunError

logger = logging.getLogger('audiocodec')

PULSE = 1.0  # seconds between two looks
SILENCE = 30.0  # seconds without a pulse after which a worker counts as dead
_GRACE = 5.0  # seconds more, in which a worker may end in its own way
_FIRST_ERROR = 'first_error'


class WorkerWatch:
    """See the head of this file; nothing happens with a single worker. Watches from its making to `finish`.

    Args:
        folder: the experiment's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.rank, self.workers = distrib.rank(), distrib.world_size()
        made = tempfile.mkdtemp(dir=folder, prefix='.workers.') if self.rank == 0 and self.workers > 1 else ''
        self.folder = Path(distrib.all_gather_object(made)[0])
        self._done = threading.Event()
        self._parent = os.getppid()
        if self.workers > 1:
            threading.Thread(target=self._watch, name='audiocodec workers', daemon=True).start()

    @contextlib.contextmanager
    def ending_together(self) -> Iterator[None]:
        """Around what workers do together: whichever error comes first ends all of them, and is what they show."""
        try:
            yield
        except InterruptedRunError:  # of all workers, which have finished
            raise
        except Exception as error:
            if self.workers > 1:
                self._end_with_first(error)
            self._done.set()
            raise

    def finish(self) -> None:
        """All went well here: wait for the others, then stop watching."""
        distrib.barrier()
        self._done.set()
        if self.workers > 1 and self.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end_with_first(self, error: Exception) -> None:
        """Say what went wrong first: here, or in another worker, of which the error here is a consequence."""
        # A collective that breaks off: another worker is gone, and says why, or is found dead when its pulse stops.
        is_consequence = isinstance(error, distributed.DistError) or 'onnection' in str(error) or 'gloo' in str(error)
        until = time.monotonic() + (SILENCE + _GRACE if is_consequence else 0.)
        while self._first_error() is None and time.monotonic() < until:
            time.sleep(0.1)
        if self._first_error() is None:
            known = isinstance(error, RunError | ValueError)
            shown = str(error) if known else ''.join(traceback.format_exception(error)).strip()
            self._leave(f'worker {self.rank}: {shown}')
            return
        first = self._first_error()
        assert first is not None
        if not first.startswith(f'worker {self.rank}:'):
            raise RunError(first) from None

    def _leave(self, text: str) -> None:
        """Write down the error, unless there is one already: a link is made by one worker alone."""
        own = self.folder / f'error.{self.rank}'
        with contextlib.suppress(OSError):
            own.write_text(text)
            os.link(own, self.folder / _FIRST_ERROR)

    def _first_error(self) -> str | None:
        try:
            return (self.folder / _FIRST_ERROR).read_text()
        except OSError:
            return None

    def _watch(self) -> None:
        """The thread: beat, listen, and end this process when the run is over for another."""
        heard = {rank: (b'', time.monotonic()) for rank in range(self.workers) if rank != self.rank}
        beats = 0
        while not self._done.wait(PULSE):
            beats += 1
            with contextlib.suppress(OSError):
                (self.folder / f'pulse.{self.rank}').write_text(str(beats))
            if os.getppid() != self._parent:  # whoever started the workers is gone: stop as if asked to
                self._parent = os.getppid()
                os.kill(os.getpid(), signal.SIGTERM)
            now = time.monotonic()
            for rank, (last, when) in heard.items():
                pulse = self._pulse(rank)
                heard[rank] = (pulse, now) if pulse != last else (last, when)
            if self._first_error() is None:
                dead = [rank for rank, (_, when) in heard.items() if now - when > SILENCE]
                if not dead:
                    continue
                self._leave(f'worker {dead[0]}: died without a word (no pulse for {SILENCE:g} s): killed from '
                            'outside, most often for want of memory')
            # The main thread may be waiting in a collective for ever; given a moment, it ends in its own way.
            if not self._done.wait(_GRACE):
                self._end()

    def _end(self) -> None:
        print(f'Error: {self._first_error()}', file=sys.stderr, flush=True)
        logger.error('ended because of %s', self._first_error())
        os._exit(1)

    def _pulse(self, rank: int) -> bytes:
        try:
            return (self.folder / f'pulse.{rank}').read_bytes()
        except OSError:
            return b''
