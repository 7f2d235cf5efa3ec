"""Common end of all workers: when one fails or dies, the others end too and show the first error.

A collective that a worker does not join keeps the others waiting. Worker 0 therefore has a
connection to each other worker, on which nothing is sent in normal operation. The system closes it
as soon as a process ends, however it ends; a paused process keeps it. A failing worker sends its
error to worker 0, which forwards the first error to all.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import wait

from audiocodec.run.launch import Place
from audiocodec.utils import distrib
from audiocodec.utils.errors import InterruptedRunError, RunError

_ORPHAN = 1.0  # seconds between two checks whether the launcher is still running
_GRACE = 5.0  # seconds for a worker to end by itself after another one failed
_DONE = 'done'  # sent instead of an error by a worker that finished
_CONSEQUENCE = 2.0  # seconds to wait for the error of another worker that may be the cause
_DIED = (
    'its process ended without an error: killed from outside, probably by the OOM killer, or by a '
    'library (a crash, or the timeout of NCCL), which is reported in the log of that worker'
)


class WorkerWatch:
    """Watches the other workers from its creation to `finish`; does nothing for a single worker.

    Args:
        place: place of this worker.
        timeout: seconds allowed for connecting.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        self.place = place
        self._over = threading.Event()
        self._has_error = threading.Event()
        self._first_error = ''
        self._lock = threading.Lock()
        self._links: dict[int, socket.socket] = {}
        self._parent = os.getppid()
        if place.world_size > 1:
            self._links = _connect(place, timeout)
            # loader processes inherit the connections, and outlive a killed worker by seconds
            os.register_at_fork(after_in_child=self._close)
            threading.Thread(target=self._watch, name='audiocodec workers', daemon=True).start()

    @contextlib.contextmanager
    def ending_together(self) -> Iterator[None]:
        """End all workers with the first error of any of them, which all of them show."""
        try:
            yield
        except InterruptedRunError:  # raised in all workers, after they finished
            raise
        except Exception as error:
            is_first = not self._links or self._is_first(error)
            self._over.set()
            if not is_first:  # the first error has been shown
                raise SystemExit(1) from None
            raise

    def finish(self) -> None:
        """Wait until every worker is done, then stop watching."""
        distrib.barrier()
        self._over.set()
        for link in self._links.values():
            _send(link, _DONE)

    def _is_first(self, error: Exception) -> bool:
        """Report an error to all workers, unless it is a consequence of another worker's error."""
        if not self._has_error.wait(_CONSEQUENCE):
            is_message = isinstance(error, RunError | ValueError)
            shown = str(error) if is_message else ''.join(traceback.format_exception(error)).strip()
            text = f'worker {self.place.rank}: {shown}'
            if self.place.rank == 0:
                self._settle(text)
            else:
                _send(self._links[0], text)
                self._has_error.wait(_GRACE)  # worker 0 decides which error was the first
        return self._first_error.startswith(f'worker {self.place.rank}:') or not self._first_error

    def _settle(self, text: str) -> None:
        """Record an error if it is the first one; worker 0 forwards it."""
        with self._lock:
            if not self._first_error:
                self._first_error = text
                if self.place.rank == 0:
                    for link in self._links.values():
                        _send(link, text)
        self._has_error.set()

    def _watch(self) -> None:
        """Wait for an error or the end of another process, then end this one; runs in a thread."""
        ready: list[socket.socket] = []
        while not ready and not self._over.is_set():
            found = wait(list(self._links.values()), _ORPHAN)
            ready = [link for link in found if isinstance(link, socket.socket)]
            if os.getppid() != self._parent:  # the launcher is gone: stop as on its signal
                self._parent = os.getppid()
                os.kill(os.getpid(), signal.SIGTERM)
        if self._over.is_set():
            return
        rank = next(rank for rank, link in self._links.items() if link in ready)
        text = _receive(self._links[rank])
        if text == _DONE:
            return
        self._settle(text or f'worker {rank}: {_DIED}')
        if self._first_error.startswith(f'worker {self.place.rank}:'):
            return  # the main thread shows it
        print(f'Error: {self._first_error}', file=sys.stderr, flush=True)
        # the main thread may be waiting in a collective that never ends
        if not self._over.wait(_GRACE):
            self._end()

    def _end(self) -> None:
        main = sys._current_frames()[threading.main_thread().ident or 0]
        where = ''.join(traceback.format_stack(main))
        text = f'worker {self.place.rank} ends because of this error; it was at:\n{where}'
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    def _close(self) -> None:
        for link in self._links.values():
            link.close()


def _connect(place: Place, timeout: float) -> dict[int, socket.socket]:
    """Connect worker 0 with each other worker.

    Returns:
        Connections by rank: in worker 0 to all others, in the others to worker 0.
    """
    is_local = place.local_world_size == place.world_size
    server = None
    address = ('', 0)
    if place.rank == 0:
        server = _listen('127.0.0.1' if is_local else '', place.world_size)
        host = '127.0.0.1' if is_local else os.environ.get('MASTER_ADDR', socket.gethostname())
        address = (host, server.getsockname()[1])
    address = distrib.all_gather_object(address)[0]
    if server is None:
        link = socket.create_connection(address, timeout)
        link.sendall(place.rank.to_bytes(4, 'big'))
        link.settimeout(None)
        return {0: link}
    links: dict[int, socket.socket] = {}
    with server:
        server.settimeout(timeout)
        while len(links) < place.world_size - 1:
            link, _ = server.accept()
            link.settimeout(timeout)
            rank = int.from_bytes(link.recv(4, socket.MSG_WAITALL), 'big')
            link.settimeout(None)
            links[rank] = link
    return links


def _listen(host: str, backlog: int) -> socket.socket:
    """Return a server on one address, or for '' on all addresses of this machine."""
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(
            (host, 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
        )
    return socket.create_server((host, 0), backlog=backlog)


def _send(link: socket.socket, text: str) -> None:
    """Send a text, the only one ever sent in this direction."""
    with contextlib.suppress(OSError):  # the reader has already ended
        link.sendall(text.encode())
        link.shutdown(socket.SHUT_WR)


def _receive(link: socket.socket) -> str:
    """Read what the other side has sent; empty if its process has ended."""
    parts = []
    with contextlib.suppress(OSError):
        while part := link.recv(65536):
            parts.append(part)
    return b''.join(parts).decode(errors='replace')
