"""A process pool for high-throughput workers: the TaskPool that Celery once
documented, on a compiled shared-memory core. Works without Celery."""

from ._version import __version__
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
from .pool import Pool
from .taskpool import AsyncResult, DrainReport, Statistics, TaskPool

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
