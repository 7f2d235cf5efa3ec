"""One experiment of a local grid: its processes, its log and its state."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dora.xp import XP

LOG = 'grid.log'  # in the experiment's folder: what its processes print


class Job:
    """An experiment in the queue. `dora.grid.monitor` shows it like a job of a cluster.

    Args:
        xp: the experiment.
        gpus: number of GPUs that it asks for.
        workers: number of its workers.
        is_finished: True if it has nothing left to do.
    """

    def __init__(self, xp: XP, gpus: int, workers: int, is_finished: bool = False) -> None:
        self.xp = xp
        self.gpus = gpus
        self.workers = workers
        self._state = 'COMPLETED' if is_finished else 'PENDING'
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False  # by us

    @property
    def log(self) -> Path:
        """The file with all that its processes print."""
        return self.xp.folder / LOG

    @property
    def current_job_id(self) -> str:
        """Process id, for the table; empty before the start."""
        return '' if self._process is None else str(self._process.pid)

    def state(self) -> str:
        """Return the state, in Slurm's words: PENDING, RUNNING, COMPLETED, FAILED or CANCELLED."""
        return self._state

    def is_done(self) -> bool:
        """True if the job has ended, or was ended before it started."""
        return self._state not in ('PENDING', 'RUNNING')

    def command(self) -> list[str]:
        """Return what runs the experiment: itself, or torchrun for several workers."""
        run = ['-m', 'audiocodec.train', *self.xp.argv]
        if self.workers > 1:
            count = f'--nproc-per-node={self.workers}'
            run = ['-m', 'torch.distributed.run', '--standalone', count, *run]
        return [sys.executable, *run]

    def start(self, variables: Mapping[str, str]) -> None:
        """Start the processes, in a session of their own: Ctrl-C does not reach them.

        Args:
            variables: additional variables of the environment.
        """
        with self.log.open('ab') as log:
            self._process = subprocess.Popen(
                self.command(),
                # Unbuffered: otherwise what was printed comes after the error that ended the job.
                env={'PYTHONUNBUFFERED': '1', **os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._state = 'RUNNING'

    def poll(self) -> bool:
        """Update the state; True if the job has ended since the last call."""
        if self._process is None or self._state != 'RUNNING' or self._process.poll() is None:
            return False
        code = self._process.returncode
        # not SIGKILL, which comes from the system when memory runs out
        is_stopped = self._is_stopped or code in (128 + signal.SIGTERM, -signal.SIGTERM)
        self._state = 'COMPLETED' if code == 0 else 'CANCELLED' if is_stopped else 'FAILED'
        return True

    def stop(self) -> None:
        """Ask the run to save its state and end; a job that has not started is canceled."""
        if self._state == 'PENDING':
            self._state = 'CANCELLED'
        elif self._process is not None and self._state == 'RUNNING':
            self._is_stopped = True
            self._process.terminate()

    def kill(self) -> None:
        """End all processes of a running job at once; its last checkpoint stays."""
        if self._process is not None and self._state == 'RUNNING':
            self._is_stopped = True
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def last_lines(self, number: int) -> list[str]:
        """Return the last lines of the log."""
        try:
            with self.log.open(errors='replace') as log:
                return [line.rstrip() for line in deque(log, number)]
        except FileNotFoundError:
            return []
