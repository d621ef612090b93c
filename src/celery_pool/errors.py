"""Exceptions, one class a failure, under :class:`PoolError`."""

from __future__ import annotations

import signal
import sys
import threading
from multiprocessing.pool import MaybeEncodingError

__all__ = [
    "AttachError",
    "PoolClosed",
    "PoolError",
    "PoolNotRunning",
    "PoolRunning",
    "PoolTerminated",
    "ResultDecodingError",
    "ResultEncodingError",
    "StartError",
    "WorkerLostError",
    "WrongProcess",
]


class PoolError(Exception):
    """Base of everything that this package raises by itself."""


class PoolNotRunning(PoolError):
    """The pool was not started."""


class PoolRunning(PoolError):
    """The pool was started already."""


class PoolClosed(PoolError):
    """The pool was closed and takes no new tasks."""


class PoolTerminated(PoolError):
    """The pool was terminated; what was in flight ends with this.

    ``tid`` is the task's, or None where no task is concerned.
    """

    def __init__(self, message: str = "the pool was terminated", tid: object = None) -> None:
        super().__init__(message, tid)
        self.tid = tid

    def __str__(self) -> str:
        return str(self.args[0])


class WrongProcess(PoolError):
    """A forked child tried to use its parent's pool."""


class StartError(PoolError):
    """The workers could not be started (within ``start_timeout``)."""


class AttachError(PoolError):
    """A worker found shared memory of another build of the package."""


class WorkerLostError(PoolError):
    """The worker died while it was running the task; other tasks are not affected.

    ``pid`` is the worker's, ``exitcode`` as :attr:`multiprocessing.Process.exitcode`
    has it (negative: the signal; None: not known), ``tid`` the task's.
    """

    def __init__(self, pid: int, exitcode: int | None, tid: object = None) -> None:
        super().__init__(pid, exitcode, tid)
        self.pid = pid
        self.exitcode = exitcode
        self.tid = tid

    def __str__(self) -> str:
        return f"worker {self.pid} was lost while it ran task {self.tid}: {describe_exit(self.exitcode)}"


class ResultEncodingError(PoolError, MaybeEncodingError):
    """The task's result could not be pickled in the worker."""

    def __str__(self) -> str:
        return f"the result {self.value} could not be pickled: {self.exc}"


class ResultDecodingError(PoolError):
    """The task's outcome could not be unpickled in the parent; ``__cause__`` says why."""


def describe_exit(exitcode: int | None) -> str:
    """'killed by SIGKILL', 'exit code 3' ..."""
    if exitcode is None:
        return "exit status unknown"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"killed by signal {-exitcode}"


def report_in_thread(error: BaseException) -> None:
    """To :data:`threading.excepthook`, as if the current thread had ended with it."""
    threading.excepthook(
        threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
    )


def report_unraisable(where: str) -> None:
    """Prints the current exception where nobody can be told."""
    print(f"celery_pool: {where}", file=sys.stderr)
    sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
