"""Start commands in processes forked from one that has already imported what they need.

Importing PyTorch and the frameworks takes some seconds of CPU time, more than most commands of
the tests. Everything else is as in a new process: environment, folder, arguments, session, exit
code and output. Tests of how commands are installed and found start real ones.
"""

import atexit
import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

from dora import executor

_context = multiprocessing.get_context('forkserver')
# not audiocodec.train, which reads the environment when it is imported
_context.set_forkserver_preload(
    ['torch._dynamo', 'dora.hydra', 'hydra', 'flashy', 'tensorboard', 'audiocodec.solvers', 'warm']
)


class Forked:
    """A command that runs; used like `subprocess.Popen` with text output.

    Args:
        command: a script, '-m' and a module, or '-c' and a program, then the arguments.
        cwd: its working directory; by default the current one.
        env: its environment; by default the current one.
    """

    def __init__(self, command, cwd=None, env=None):
        cwd = os.getcwd() if cwd is None else cwd
        env = os.environ if env is None else env
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

    def kill(self):
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)


def shell(line, cwd, env, timeout=None):
    """Run a line of a shell to its end; the project's commands in it are forked."""
    name, _, arguments = line.partition(' ')
    if name in ('dora', 'audiocodec') and not set(line) & set('&|;<>$`'):
        return run(['-m', name, *shlex.split(arguments)], cwd, env, timeout)
    return subprocess.run(
        line,
        shell=True,
        executable='/bin/bash',
        cwd=cwd,
        env=env,
        timeout=timeout,
        capture_output=True,
        text=True,
    )


def run(command, cwd=None, env=None, timeout=None):
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
    os.chdir(cwd)
    executor.sp = types.SimpleNamespace(**{**vars(subprocess), 'Popen': _Worker})
    sys.path[:0] = list(filter(None, env.get('PYTHONPATH', '').split(os.pathsep)))
    ready.send(True)
    ready.close()
    _run(command, cwd, env)


class _Worker:
    """A further worker of `dora run -d`, in place of the `subprocess.Popen` that Dora calls."""

    def __init__(self, command, env, stdin=None, stdout=None, stderr=None):
        self._code = None
        self.pid = os.fork()
        if self.pid == 0:
            for number in (1, 2) if stdout is not None else ():
                os.dup2(stdout.fileno(), number)
            _run(command[1:], os.getcwd(), env)

    def wait(self, timeout):
        end = time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired([], timeout)
            else:
                time.sleep(0.01)
        return self._code

    def terminate(self):
        if self._code is None:
            os.kill(self.pid, signal.SIGTERM)


def _run(command, cwd, env):
    """Run a command in this process, and end it."""
    os.environ.clear()
    os.environ.update(env)
    # new streams, since those of the parent have other buffers and encodings
    sys.stdout, sys.stderr = (open(number, 'w', closefd=False) for number in (1, 2))  # noqa: SIM115
    code = 0
    try:
        if command[0] == '-m':
            sys.argv = command[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(command[1], run_name='__main__', alter_sys=True)
        elif command[0] == '-c':
            sys.argv = ['-c', *command[2:]]
            exec(compile(command[1], '<string>', 'exec'), {'__name__': '__main__'})
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
