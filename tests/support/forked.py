"""Start commands in processes forked from one that has already imported what they need.

Importing PyTorch and the frameworks takes some seconds of CPU time, more than most commands of
the tests. Everything else is as in a new process: environment, folder, arguments, session, exit
code and output. Tests of how commands are installed and found start real ones.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_context = multiprocessing.get_context('forkserver')
# not audiocodec.train, which reads the environment when it is imported
_context.set_forkserver_preload(
    ['torch._dynamo', 'dora.hydra', 'hydra', 'flashy', 'tensorboard', 'audiocodec.solvers']
)


class Forked:
    """A command that runs; used like `subprocess.Popen` with text output.

    Args:
        command: a script, or '-m' and a module, then the arguments.
        cwd: its working directory.
        env: its environment.
    """

    def __init__(self, command, cwd, env):
        self.args = command
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ('out', 'err')]
        self._texts = None
        here, there = _context.Pipe(duplex=False)
        arguments = (list(map(str, command)), str(cwd), dict(env), self._files, there)
        self._process = _context.Process(target=_main, args=arguments)
        self._process.start()
        here.recv()  # from here on it is the leader of its session
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        if self._texts is None:
            with self._folder:
                self._texts = tuple(file.read_text() for file in self._files)
        return self._process.exitcode

    def communicate(self, timeout=None):
        """Wait for its end, and return what it has written to stdout and stderr."""
        self.wait(timeout)
        return self._texts

    def send_signal(self, number):
        os.kill(self.pid, number)


def run(command, cwd, env, timeout=None):
    """Run a command to its end; used like `subprocess.run` with captured text."""
    process = Forked(command, cwd, env)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _main(command, cwd, env, files, ready):
    os.setsid()
    # as in a new process; children of this server would start theirs by a server, too
    multiprocessing.set_start_method('fork', force=True)
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # new streams, since those of the server have other buffers and encodings
    sys.stdout, sys.stderr = (open(number, 'w', closefd=False) for number in (1, 2))  # noqa: SIM115
    ready.send(True)
    ready.close()
    code = 0
    try:
        if command[0] == '-m':
            sys.argv = command[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(command[1], run_name='__main__', alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name='__main__')
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
