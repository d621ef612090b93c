"""A process pool for high-throughput workers: the TaskPool that Celery once
documented, on a compiled shared-memory core. Works without Celery."""

from ._version import __version__
from .einfo import ExceptionInfo
from .errors import (
    AttachError,
    PoolClosed,
    PoolError,
    PoolNotRunning,
    PoolRunning,
    PoolTerminated,
    ResultDecodingError,
    ResultEncodingError,
    StartError,
    WorkerLostError,
    WrongProcess,
)
from .taskpool import AsyncResult, Statistics, TaskPool

__all__ = [
    "AsyncResult",
    "AttachError",
    "ExceptionInfo",
    "PoolClosed",
    "PoolError",
    "PoolNotRunning",
    "PoolRunning",
    "PoolTerminated",
    "ResultDecodingError",
    "ResultEncodingError",
    "StartError",
    "Statistics",
    "TaskPool",
    "WorkerLostError",
    "WrongProcess",
    "__version__",
]
