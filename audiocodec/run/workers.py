"""The common end of all workers: when one fails or dies, the others end too and show the first
error.

A collective that a worker does not join keeps the others waiting. So worker 0 has a connection to
each other worker, on which nothing is sent while all is well. The system closes it the moment a
process ends, however it ends; a process that is paused keeps it. A worker that fails sends its
error to worker 0, which passes the first one on to all.
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

_ORPHAN = 1.0  # seconds between two looks at whether the launcher is still there
_GRACE = 5.0  # seconds that a worker has to end in its own way when another one has failed
_DONE = 'done'  # sent in place of an error by a worker whose run has ended well
_CONSEQUENCE = 2.0  # seconds within which the cause of an error in another worker is known here
_DIED = (
    'its process ended without an error of its own: killed from outside, most often because the '
    'machine was out of memory, or by a library (a crash, or the time-out of NCCL), which says so '
    'in the log of that worker'
)


class WorkerWatch:
    """Watches the other workers from its creation to `finish`; does nothing for a single worker.

    Args:
        place: of this worker.
        timeout: seconds that making the connections may take.
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
            # Loading processes outlive a killed worker by seconds, and inherit its connections.
            os.register_at_fork(after_in_child=self._close)
            threading.Thread(target=self._watch, name='audiocodec workers', daemon=True).start()

    @contextlib.contextmanager
    def ending_together(self) -> Iterator[None]:
        """Ends all workers with the first error of any of them, which is what all show."""
        try:
            yield
        except InterruptedRunError:  # of all workers, which have finished
            raise
        except Exception as error:
            is_first = not self._links or self._is_first(error)
            self._over.set()
            if not is_first:  # the first one is on the screen
                raise SystemExit(1) from None
            raise

    def finish(self) -> None:
        """Waits until every worker is through, then stops watching."""
        distrib.barrier()
        self._over.set()
        for link in self._links.values():
            _send(link, _DONE)

    def _is_first(self, error: Exception) -> bool:
        """Tells all workers of an error here, unless it is the consequence of another one's."""
        if not self._has_error.wait(_CONSEQUENCE):
            is_message = isinstance(error, RunError | ValueError)
            shown = str(error) if is_message else ''.join(traceback.format_exception(error)).strip()
            text = f'worker {self.place.rank}: {shown}'
            if self.place.rank == 0:
                self._settle(text)
            else:
                _send(self._links[0], text)
                self._has_error.wait(_GRACE)  # worker 0 says which of several was the first
        return self._first_error.startswith(f'worker {self.place.rank}:') or not self._first_error

    def _settle(self, text: str) -> None:
        """Makes an error the first one, if there is none yet; worker 0 passes it on."""
        with self._lock:
            if not self._first_error:
                self._first_error = text
                for link in self._links.values() if self.place.rank == 0 else ():
                    _send(link, text)
        self._has_error.set()

    def _watch(self) -> None:
        """The thread: waits for an error or the end of another process, and ends this one."""
        ready: list[socket.socket] = []
        while not ready and not self._over.is_set():
            found = wait(list(self._links.values()), _ORPHAN)
            ready = [link for link in found if isinstance(link, socket.socket)]
            if os.getppid() != self._parent:  # the launcher is gone: stop as if asked to
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
        # The main thread may be waiting in a collective that never ends.
        if not self._over.wait(_GRACE):
            self._end()

    def _end(self) -> None:
        main = sys._current_frames()[threading.main_thread().ident or 0]
        where = ''.join(traceback.format_stack(main))
        text = f'worker {self.place.rank} ends because of that error; it was at:\n{where}'
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    def _close(self) -> None:
        for link in self._links.values():
            link.close()


def _connect(place: Place, timeout: float) -> dict[int, socket.socket]:
    """Connects worker 0 with each other worker.

    Returns:
        In worker 0 a connection by rank, in each other worker the one to rank 0.
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
    """A server on one address, or for '' on all of this machine, IPv6 included."""
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(
            (host, 0), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
        )
    return socket.create_server((host, 0), backlog=backlog)


def _send(link: socket.socket, text: str) -> None:
    """Sends a text, the only one that is ever sent in this direction."""
    with contextlib.suppress(OSError):  # its reader has ended already
        link.sendall(text.encode())
        link.shutdown(socket.SHUT_WR)


def _receive(link: socket.socket) -> str:
    """Reads what the other side has sent; empty if its process has ended."""
    parts = []
    with contextlib.suppress(OSError):
        while part := link.recv(65536):
            parts.append(part)
    return b''.join(parts).decode(errors='replace')
