"""TaskFuture: a :class:`concurrent.futures.Future` that makes nothing until somebody looks.

What a Future is made of (a lock, two lists) takes longer than a small task, and most
futures are looked at only once they are done. The core keeps what is left, and waits.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from ..facade_side import JobFuture

T = TypeVar("T")


class TaskFuture(JobFuture[T], Future[T]):
    """The future of one task of a :class:`TaskPoolExecutor`.

    A task counts as running from the moment a worker has claimed it, and until
    then :meth:`cancel` takes it back: it never runs. Who waits for it, by its own
    methods or those of :mod:`concurrent.futures`, collects results meanwhile, as the
    executor's background thread does. Any thread may use it; a forked child may not.
    """

    def __repr__(self) -> str:
        text = super().__repr__()
        return text.replace("state=pending", "state=running", 1) if self.running() else text
