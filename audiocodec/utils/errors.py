"""Errors that the user can fix: those that end a run, and missing packages."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


class RunError(RuntimeError):
    """Ends a run with a message, without a traceback, and with exit code 1; files are intact."""


class InterruptedRunError(RunError):
    """A signal stopped the run after it saved its checkpoint; the same command resumes it.

    Args:
        message: the message to show.
        signal: number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """Exit code as of a process ended by that signal, so that queues do not see a success."""
        return 128 + self.signal


def require(what: str, extra: str, *packages: str) -> None:
    """Check that optional packages can be imported.

    Args:
        what: what needs them, for the message.
        extra: extra of this package that installs them.
        packages: packages to import.

    Raises:
        ValueError: some cannot be imported; the message says how to install them.
    """
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing.append(f'{package} ({error})')
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}: pip install 'audiocodec[{extra}]'")


def import_transformers() -> ModuleType:
    """Import `transformers`, even if the installed torchaudio cannot be loaded.

    `transformers` imports torchaudio if it is installed, though it hardly needs it. The latest
    torchaudio cannot be loaded with a CPU-only PyTorch, or with a much older one.

    Raises:
        ImportError: transformers is not installed.
    """
    if 'transformers.audio_utils' not in sys.modules:
        with _without_broken('torchaudio'):
            from transformers.utils import is_torchaudio_available

            # if it was imported before, it has looked for torchaudio; since version 5 it caches
            # the result
            getattr(is_torchaudio_available, 'cache_clear', lambda: None)()
            importlib.import_module('transformers.audio_utils')
    return importlib.import_module('transformers')


@contextlib.contextmanager
def _without_broken(package: str) -> Iterator[None]:
    """Make a package that is installed but cannot be loaded look as if it were not installed."""
    try:
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(package)
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.partition('.')[0] == package]:
            del sys.modules[name]  # submodules imported before it failed
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if package in sys.modules and sys.modules[package] is None:
            del sys.modules[package]
