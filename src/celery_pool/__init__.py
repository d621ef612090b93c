"""A process pool for high-throughput workers: the TaskPool that Celery once
documented, on a compiled shared-memory core. Works without Celery.

What stands here is imported when it is asked for: a program that uses one facade
does not pay for the others, and neither do the workers."""

from ._version import __version__

TYPE_CHECKING = False  # typing's would cost its import
if TYPE_CHECKING:
    from .child.current import CurrentWorker, current_worker
    from .einfo import ExceptionInfo
    from .errors import (
        AttachError,
        CrashLoopError,
        MemoryLimitExceeded,
        PayloadTooLarge,
        PoolClosed,
        PoolError,
        PoolFull,
        PoolNotRunning,
        PoolRunning,
        PoolTerminated,
        ResultDecodingError,
        ResultEncodingError,
        SoftTimeLimitExceeded,
        StartError,
        TaskCancelled,
        TaskExpired,
        TaskTerminated,
        TimeLimitExceeded,
        WorkerLostError,
        WrongProcess,
    )
    from .executor import TaskFuture, TaskPoolExecutor
    from .options import PoolOptions
    from .pool import Pool
    from .reports import DrainReport, Statistics
    from .taskpool import AsyncResult, TaskPool

__all__ = [
    "AsyncResult",
    "AttachError",
    "CrashLoopError",
    "CurrentWorker",
    "DrainReport",
    "ExceptionInfo",
    "MemoryLimitExceeded",
    "PayloadTooLarge",
    "Pool",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolNotRunning",
    "PoolOptions",
    "PoolRunning",
    "PoolTerminated",
    "ResultDecodingError",
    "ResultEncodingError",
    "SoftTimeLimitExceeded",
    "StartError",
    "Statistics",
    "TaskCancelled",
    "TaskExpired",
    "TaskFuture",
    "TaskPool",
    "TaskPoolExecutor",
    "TaskTerminated",
    "TimeLimitExceeded",
    "WorkerLostError",
    "WrongProcess",
    "__version__",
    "current_worker",
]

_HOMES = {
    "AsyncResult": "taskpool",
    "CurrentWorker": "child.current",
    "DrainReport": "reports",
    "ExceptionInfo": "einfo",
    "Pool": "pool",
    "PoolOptions": "options",
    "Statistics": "reports",
    "TaskFuture": "executor",
    "TaskPool": "taskpool",
    "TaskPoolExecutor": "executor",
    "current_worker": "child.current",
}  # of all others: errors
_PUBLIC_MODULES = ("einfo", "errors", "options")

if not TYPE_CHECKING:  # or any name would pass the type checkers

    def __getattr__(name):
        from importlib import import_module

        if name in _PUBLIC_MODULES:
            return import_module(f".{name}", __name__)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, *_PUBLIC_MODULES})
