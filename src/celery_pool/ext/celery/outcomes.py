"""What a task ended with, in the words that Celery knows: billiard's."""

from __future__ import annotations

from typing import Any

from billiard import exceptions
from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.pool import MaybeEncodingError

from ...errors import (
    MemoryLimitExceeded,
    PoolError,
    ResultEncodingError,
    TaskTerminated,
    TimeLimitExceeded,
    WorkerLostError,
)


def failure(error: BaseException, hard: float | None) -> Any:
    """What Celery is told of a task that ended with `error`: billiard's ExceptionInfo.

    :param hard: the task's hard limit in seconds.
    """
    told = _told(error, hard)
    try:
        raise told  # it has to have a traceback
    except BaseException:
        return ExceptionInfo()


def _told(error: BaseException, hard: float | None) -> Any:
    if isinstance(error, TimeLimitExceeded):
        return exceptions.TimeLimitExceeded(hard)
    if isinstance(error, TaskTerminated):
        return exceptions.Terminated(error.signum)
    if isinstance(error, WorkerLostError):
        memory = " Probably out of memory." if error.out_of_memory else ""
        return _lost(f"{human_status(error.exitcode)} Job: {error.tid}.{memory}")
    if isinstance(error, MemoryLimitExceeded):
        return _lost(f"{error}.")
    if isinstance(error, ResultEncodingError):
        return MaybeEncodingError(error.exc, error.value)
    if isinstance(error, PoolError):  # the pool has ended, or is broken
        return _lost(f"{error}.")
    return error


def _lost(why: str) -> Any:
    return exceptions.WorkerLostError(f"Worker exited prematurely: {why}")
