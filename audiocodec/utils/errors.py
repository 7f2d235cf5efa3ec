"""Why a run that had begun cannot go on, as far as a user can mend it."""


class RunError(RuntimeError):
    """Ends a run with a message and without a traceback; what is on disk is intact. The exit code
    is 1.
    """


class InterruptedRunError(RunError):
    """The run was asked to stop by a signal, has saved its checkpoint, and ends; started again, it
    goes on.

    Args:
        message: what is shown.
        signal: the signal's number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """What shells give for a process ended by that signal, so that a queue does not take it for
        success.
        """
        return 128 + self.signal
