"""What a worker is told about itself."""

from __future__ import annotations

import os

from .. import _poolcore


class CurrentWorker:
    """The worker process in which this is used; from :func:`current_worker`.

    ``index`` is its place among the pool's workers, from 0: no two tasks run at a time in
    workers of one index, and a replacement gets its predecessor's. ``pid`` is its process
    id, ``pool_name`` what the names of the pool's processes begin with.
    """

    def __init__(self, end: _poolcore.WorkerEnd, index: int, pool_name: str) -> None:
        self._end = end
        self.index = index
        self.pid = os.getpid()
        self.pool_name = pool_name

    @property
    def tasks_done(self) -> int:
        """Tasks that it has ended, however; without the one that runs."""
        return self._end.tasks_done

    def retire(self) -> None:
        """Makes the worker leave after the task that runs (in an initializer: after its first
        one; between two tasks: at once). What else it was given goes to others, and it is
        replaced as one that has reached ``maxtasksperchild``. Any thread may call it."""
        self._end.leave()

    def __repr__(self) -> str:
        return f"<worker {self.index} of {self.pool_name}, pid {self.pid}>"


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker | None:
    """The worker that this is called in, by a task, an initializer or a finalizer; None in
    every other process, the program itself and what a task has forked among them."""
    if _current is None or _current.pid != os.getpid():
        return None
    return _current


def become(worker: CurrentWorker) -> None:
    global _current
    _current = worker
