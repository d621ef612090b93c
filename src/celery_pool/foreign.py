"""Watches foreign results: what ``TaskPool.add`` puts in the queue beside our jobs.

A concurrent.futures Future tells when it is done. Anything else (a result of a
multiprocessing.Pool, any object with ``ready`` and ``get``) is polled by whoever
waits in the pool, with a back-off from 1 to 50 ms that starts anew with each one
that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHORTEST_NS = 1_000_000
LONGEST_NS = 50_000_000


def check(result: Any) -> None:
    """TypeError unless `result` can be watched."""
    if not is_future(result) and not (
        callable(getattr(result, "ready", None)) and callable(getattr(result, "get", None))
    ):
        raise TypeError(
            "result must have ready() and get(), or be a concurrent.futures.Future, "
            f"not {type(result).__name__}"
        )


def is_future(result: Any) -> bool:
    return callable(getattr(result, "add_done_callback", None)) and callable(
        getattr(result, "result", None)
    )


def outcome_of(result: Any) -> tuple[bool, Any]:
    """(True, value) or (False, exception) of a result that has ended."""
    try:
        if not is_future(result):
            return True, result.get()
        # result() of a Future takes an exception that is false in a truth test for none
        error = result.exception() if hasattr(result, "exception") else None
        return (True, result.result()) if error is None else (False, error)
    except BaseException as error:  # a KeyboardInterrupt, too, is the task's
        return False, error


class ForeignPoller:
    """Foreign results that cannot notify. Used under the GIL by whoever waits in the
    pool; `poll` runs user code, and may be entered again by it."""

    def __init__(self) -> None:
        self.polled: dict[Hashable, Any] = {}  # tid -> result
        self._interval = SHORTEST_NS
        self._next = 0

    def add(self, tid: Hashable, result: Any) -> None:
        self.polled[tid] = result
        self._interval = SHORTEST_NS
        self._next = 0

    def poll(self, ended: Callable[[Hashable], object]) -> int:
        """Calls `ended(tid)` for each one that has; nanoseconds until the next
        look, -1 if there is nothing left to look at."""
        now = time.monotonic_ns()
        if now < self._next:
            return self._next - now
        self._next = now + self._interval
        self._interval = min(2 * self._interval, LONGEST_NS)
        for tid, result in list(self.polled.items()):
            if _is_ready(result):
                self.polled.pop(tid, None)
                self._interval = SHORTEST_NS
                ended(tid)
        return self._next - now if self.polled else -1


def _is_ready(result: Any) -> bool:
    try:
        return bool(result.ready())
    except Exception:
        return True  # get() will say what is wrong with it
