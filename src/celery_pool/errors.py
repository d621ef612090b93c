"""Exceptions, one class a failure, under :class:`PoolError`.

Those that are exceptions of the standard library's pools as well stand in
errors_shared.py, which is imported when one is asked for.
"""

from __future__ import annotations

import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .errors_shared import PoolFull, ResultEncodingError, TaskCancelled

__all__ = [
    "AttachError",
    "CrashLoopError",
    "MemoryLimitExceeded",
    "PayloadTooLarge",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolNotRunning",
    "PoolRunning",
    "PoolTerminated",
    "ResultDecodingError",
    "ResultEncodingError",
    "SoftTimeLimitExceeded",
    "StartError",
    "TaskCancelled",
    "TaskExpired",
    "TaskTerminated",
    "TimeLimitExceeded",
    "WorkerLostError",
    "WrongProcess",
]


class PoolError(Exception):
    """Base of everything that this package raises by itself."""

    _counted_as = ""  # the core's counter of tasks that end with it, besides `failed`


class WrongCall(TypeError):
    """A call that cannot be right: told to the caller, never the outcome of a task. Users
    catch it as a TypeError."""


class PoolNotRunning(PoolError, ValueError):
    """The pool was not started, or, of a :class:`Pool`, takes no more tasks."""


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


class _Broken(PoolError):
    """Nothing goes on before the next ``run()``. ``cause`` says why, ``tid`` is the
    task's that ends with it; each may be None."""

    def __init__(
        self, message: str, cause: BaseException | None = None, tid: object = None
    ) -> None:
        super().__init__(message, cause, tid)
        self.cause = cause
        self.tid = tid
        self.__cause__ = cause

    def __str__(self) -> str:
        return str(self.args[0])


class StartError(_Broken):
    """The workers could not be started (within ``start_timeout``).

    After ``run(wait=False)`` everything in flight and every later submission fails
    with it; ``cause`` says why, ``tid`` is the task's. Both are None otherwise.
    """


class AttachError(PoolError):
    """A worker found shared memory of another build of the package."""


class PayloadTooLarge(PoolError, ValueError):
    """The pickled arguments of one task take more than ``max_bytes``."""


class CrashLoopError(_Broken):
    """Workers died too often, or could not be replaced: the pool is broken. ``cause`` says
    what happened last.

    Everything in flight and every later submission fails with it; ``run()`` starts
    afresh. ``tid`` is the task's, or None.
    """


class _NeverRan(PoolError):
    """The task ended before it started. ``tid`` is its id."""

    _how = ""

    def __init__(self, tid: object = None) -> None:
        super().__init__(tid)
        self.tid = tid

    def __str__(self) -> str:
        return f"task {self.tid} {self._how} before it started"


class TaskExpired(_NeverRan):
    """The task had not started by its ``expires``; it never ran."""

    _counted_as = "expired"
    _how = "expired"


class TaskTerminated(PoolError):
    """The task was ended by ``AsyncResult.terminate``.

    ``pid`` is its worker's (None: it had not started), ``signum`` the signal.
    """

    def __init__(self, pid: int | None, signum: int, tid: object = None) -> None:
        super().__init__(pid, signum, tid)
        self.pid = pid
        self.signum = signum
        self.tid = tid

    def __str__(self) -> str:
        if self.pid is None:
            return f"task {self.tid} was terminated before it started"
        return (
            f"task {self.tid} was terminated in worker {self.pid} ({describe_exit(-self.signum)})"
        )


class SoftTimeLimitExceeded(PoolError):
    """Raised inside a task that has run for its ``soft_timeout``."""

    def __str__(self) -> str:
        return super().__str__() or "the task has run for its soft_timeout"


class TimeLimitExceeded(PoolError):
    """The task ran for longer than its ``timeout`` and was killed.

    Not a TimeoutError: that is what ``get(timeout)`` raises for "not ready yet".
    ``timeout`` is the limit in seconds, ``pid`` the worker's, ``stack`` the text of
    the task's Python stack at that moment, without frames of ours and of what has
    started the worker ("" if it could not be had).
    """

    def __init__(self, timeout: float, pid: int, stack: str = "", tid: object = None) -> None:
        super().__init__(timeout, pid, stack, tid)
        self.timeout = timeout
        self.pid = pid
        self.tid = tid
        self.stack = stack

    def __str__(self) -> str:
        return f"task {self.tid} ran for more than {self.timeout} seconds in worker {self.pid}"

    def __repr__(self) -> str:
        return f"TimeLimitExceeded(timeout={self.timeout}, pid={self.pid}, tid={self.tid!r})"


class MemoryLimitExceeded(PoolError):
    """The task's worker held more memory than ``memory_kill`` and was killed.

    ``used`` and ``limit`` are KiB of anonymous resident memory.
    """

    def __init__(self, used: int, limit: int, pid: int, tid: object = None) -> None:
        super().__init__(used, limit, pid, tid)
        self.used = used
        self.limit = limit
        self.pid = pid
        self.tid = tid

    def __str__(self) -> str:
        return (
            f"task {self.tid} in worker {self.pid} used {self.used} KiB, more than {self.limit} KiB"
        )


class WorkerLostError(PoolError):
    """The worker died while it was running the task; other tasks are not affected.

    ``pid`` is the worker's, ``exitcode`` as :attr:`multiprocessing.Process.exitcode`
    has it (negative: the signal; None: not known), ``tid`` the task's,
    ``signal`` is the signal's name or None, ``out_of_memory`` whether the kernel's
    counters say that it killed something for want of memory at that time.
    """

    _counted_as = "lost"

    def __init__(
        self, pid: int, exitcode: int | None, out_of_memory: bool = False, tid: object = None
    ) -> None:
        super().__init__(pid, exitcode, out_of_memory, tid)
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal_name(-exitcode) if exitcode is not None and exitcode < 0 else None
        self.out_of_memory = out_of_memory
        self.tid = tid

    def __str__(self) -> str:
        doing = "" if self.tid is None else f" while it ran task {self.tid}"
        text = f"worker {self.pid} was lost{doing}: {describe_exit(self.exitcode)}"
        return f"{text}, probably out of memory" if self.out_of_memory else text


class ResultDecodingError(PoolError):
    """The task's outcome could not be unpickled in the parent; ``__cause__`` says why."""


def describe_exit(exitcode: int | None) -> str:
    """'killed by SIGKILL', 'exit code 3' ..."""
    if exitcode is None:
        return "exit status unknown"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    return f"killed by {signal_name(-exitcode)}"


def signal_name(number: int) -> str:
    """'SIGKILL', or 'signal 99' for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def report_in_thread(error: BaseException) -> None:
    """To :data:`threading.excepthook`, as if the current thread had ended with it."""
    threading.excepthook(
        threading.ExceptHookArgs(
            (type(error), error, error.__traceback__, threading.current_thread())
        )
    )


def report_unraisable(where: str) -> None:
    """Prints the current exception where nobody can be told."""
    print(f"celery_pool: {where}", file=sys.stderr)
    sys.excepthook(*sys.exc_info())


if not TYPE_CHECKING:  # or any name would pass the type checkers

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import errors_shared

        value = globals()[name] = getattr(errors_shared, name)
        return value
