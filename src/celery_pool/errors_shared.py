"""The exceptions of errors.py that are the standard library's as well.

Apart from the others because of what their bases cost to import; use them from
errors.py.
"""

from __future__ import annotations

import concurrent.futures
import queue
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]

from .errors import PoolError, _NeverRan


class PoolFull(PoolError, queue.Full):
    """There was no slot, and the call was not to wait (any longer) for one."""


class TaskCancelled(_NeverRan, concurrent.futures.CancelledError):
    """The task was taken back before it started; it never ran."""

    _counted_as = "cancelled"
    _how = "was cancelled"


class ResultEncodingError(PoolError, MaybeEncodingError):  # type: ignore[misc]
    """The task's result could not be pickled in the worker."""

    def __str__(self) -> str:
        return f"the result {self.value} could not be pickled: {self.exc}"


for _class in list(globals().values()):
    if isinstance(_class, type) and _class.__module__ == __name__:
        _class.__module__ = PoolError.__module__
