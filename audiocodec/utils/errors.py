"""Errors that the user can fix: those that end a run, and missing packages."""

import importlib


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
