"""Errors that end a run and that the user can fix."""


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
