"""The yardstick: the documented TaskPool in straightforward Python over multiprocessing's Pool.

    apply_async -> multiprocessing.Pool.apply_async -> AsyncResult
                -> add: queue[tid] = (result, callbacks, errbacks, meta); full? wait for the first
    AsyncResult's callback (the pool's result thread), or reap (any thread)
                -> on_return: del queue[tid] -> on_ready -> callbacks or errbacks

Written as one would write it today, without tricks and without handicaps: integer tids from a
counter (`uuid_tids` are those of the original design), a constant-time limit check, one pass over
the queue a reap.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable
from multiprocessing.pool import ApplyResult
from typing import Any

Callbacks = list[Callable[..., Any]]
Meta = dict[str, Any]
Entry = tuple[Any, Callbacks, Callbacks, Meta]


def integer_tids() -> Callable[[], int]:
    """tids from a counter."""
    return itertools.count(1).__next__


def uuid_tids() -> Callable[[], str]:
    """tids as random texts."""
    return lambda: str(uuid.uuid4())


class PlainTaskPool:
    """Queue, limit and reaping of the documented design; `pool` is anything with apply_async."""

    def __init__(self, limit: int, pool: Any, new_tid: Callable[[], Any] | None = None) -> None:
        self.limit = limit
        self._pool = pool
        self._new_tid = new_tid or integer_tids()
        self._queue: dict[Any, Entry] = {}

    def apply_async(
        self,
        target: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        callbacks: Callbacks | None = None,
        errbacks: Callbacks | None = None,
        meta: Meta | None = None,
    ) -> Any:
        tid = self._new_tid()
        callbacks, errbacks, meta = callbacks or [], errbacks or [], meta or {}

        def on_return(ret_value: Any) -> None:
            self.on_return(ret_value, tid, callbacks, errbacks, meta)

        result = self._pool.apply_async(
            target, args or (), kwargs or {}, callback=on_return, error_callback=on_return
        )
        self.add(result, callbacks, errbacks, tid, meta)
        return result

    def add(
        self, result: Any, callbacks: Callbacks, errbacks: Callbacks, tid: Any, meta: Meta
    ) -> None:
        entry = (result, callbacks, errbacks, meta)
        self._queue[tid] = entry
        if result.ready():  # it came before its tid was in the queue
            self._collect(tid, entry)
        elif self.full():
            self.wait_for_result()

    def full(self) -> bool:
        return len(self._queue) >= self.limit

    def wait_for_result(self) -> None:
        try:
            tid, entry = next(iter(self._queue.items()))
        except (
            StopIteration,
            RuntimeError,
        ):  # RuntimeError: the result thread has just changed the queue
            return
        entry[0].wait()
        self._collect(tid, entry)

    def reap(self) -> int:
        finished = [item for item in list(self._queue.items()) if item[1][0].ready()]
        for tid, entry in finished:
            self._collect(tid, entry)
        return len(finished)

    def _collect(self, tid: Any, entry: Entry) -> None:
        result, callbacks, errbacks, meta = entry
        try:
            value = result.get()
        except Exception as exception:
            value = exception
        self.on_return(value, tid, callbacks, errbacks, meta)

    def on_return(
        self, ret_value: Any, tid: Any, callbacks: Callbacks, errbacks: Callbacks, meta: Meta
    ) -> None:
        if self._queue.pop(tid, None) is not None:
            self.on_ready(ret_value, callbacks, errbacks, meta)

    def on_ready(
        self, ret_value: Any, callbacks: Callbacks, errbacks: Callbacks, meta: Meta
    ) -> None:
        if isinstance(ret_value, BaseException):
            for errback in errbacks:
                errback(ret_value, meta)
        else:
            for callback in callbacks:
                callback(ret_value, meta)


class PlainBookkeeping:
    """PlainTaskPool without processes: what the parent keeps for a task, and nothing else.

    A task is an `ApplyResult`, the record that multiprocessing.Pool makes for it, and an entry of
    the queue.
    """

    def __init__(self, limit: int, new_tid: Callable[[], Any] | None = None) -> None:
        self._pool = PlainTaskPool(limit, None, new_tid)
        self._new_tid = self._pool._new_tid
        self._cache: dict[int, Any] = {}
        self.full = self._pool.full
        self.reap = self._pool.reap

    def add(self, result: Any, callbacks: Callbacks) -> None:
        """Queues the result of another pool."""
        self._pool.add(result, callbacks, [], self._new_tid(), {})

    def submit(self, callbacks: Callbacks) -> None:
        """Makes the record of one task and queues it."""
        self._pool.add(ApplyResult(self, None, None), callbacks, [], self._new_tid(), {})  # type: ignore[arg-type]

    def finish_all(self) -> None:
        """The workers' side: every queued task now has its result."""
        for result in list(self._cache.values()):
            result._set(0, (True, None))
