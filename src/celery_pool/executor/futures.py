"""TaskFuture: a :class:`concurrent.futures.Future` that costs a fifth until somebody looks at it.

A Future's lock and lists are what a small task spends most of its time on, and most
futures are looked at only once they are done. So they are made when somebody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
)
from typing import Any, TypeVar

from ..taskpool import AsyncResult

T = TypeVar("T")


class _Settled:
    """In the place of a Condition: the future is done, nothing changes any more."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def notify_all(self) -> None:
        pass

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *exc_info: object) -> None:
        pass


_SETTLED = _Settled()


class TaskFuture(Future[T]):
    """The future of one task of a :class:`TaskPoolExecutor`.

    A task counts as running from the moment a worker has claimed it, and until
    then :meth:`cancel` takes it back: it never runs. Any thread may use it; a forked
    child may not.
    """

    _state = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _job: AsyncResult[Any] | None = None  # while the task has not ended

    # What Future.__init__ makes is made when it is first looked at. `_lock` is decided
    # once, by setdefault: it is a Condition if somebody looked before the end, else
    # _SETTLED, and then the state follows at once.
    __init__ = object.__init__

    @property
    def _condition(self) -> Any:  # type: ignore[override]
        attributes = self.__dict__
        lock = attributes.get("_lock")
        if lock is None:
            lock = attributes.setdefault("_lock", threading.Condition())
        if lock is _SETTLED:
            while self._state == PENDING:  # in the midst of settle(), in another thread
                time.sleep(0)
        return lock

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        return self.__dict__.setdefault("_those_who_wait", [])  # type: ignore[no-any-return]

    @property
    def _done_callbacks(self) -> list[Callable[[Future[T]], object]]:
        return self.__dict__.setdefault("_when_done", [])  # type: ignore[no-any-return]

    def running(self) -> bool:
        """Whether a worker has claimed the task and it has not ended."""
        job = self._job
        return self._state == PENDING and job is not None and job.worker_pid is not None

    def done(self) -> bool:
        """Whether the task has ended or was cancelled."""
        return self._state != PENDING

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def cancel(self) -> bool:
        """Takes the task back if no worker has claimed it. Returns whether so (also
        if that had been done before). Done callbacks run in this thread."""
        with self._condition:
            if self._state != PENDING:
                return self.cancelled()
            job = self._job
            if job is None or not job.cancel():
                return False
            self._job = None
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def result(self, timeout: float | None = None) -> T:
        """The task's result, or raises what it raised.

        :param timeout: seconds to wait at most; None: without limit.
        :raises TimeoutError: not done by then; the task goes on.
        :raises CancelledError: it was cancelled.
        """
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            value = Future.result(self, timeout)
            if self._exception is not None:  # false in a truth test: Future takes it for none
                raise self._exception
            return value
        finally:
            del self  # an exception's traceback would keep it, and it the exception

    def __repr__(self) -> str:
        text = super().__repr__()
        return text.replace("state=pending", "state=running", 1) if self.running() else text


def settle(result: Any, future: TaskFuture[Any]) -> None:
    """Callback of every task that has succeeded."""
    future._job = None
    if future.__dict__.setdefault("_lock", _SETTLED) is _SETTLED:
        future._result = result
        future._state = FINISHED
    else:
        future.set_result(result)
