"""What of an executor outlives it while its tasks do.

One thread an executor, `Life._close_when_told`, ends the pool, so that nobody else has
to: not a destructor, not a done callback, not the interpreter's exit before its time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from queue import SimpleQueue
from typing import Any

from ..errors import (
    CrashLoopError,
    PoolTerminated,
    StartError,
    TaskTerminated,
    WorkerLostError,
)
from ..taskpool import AsyncResult, TaskPool
from .futures import TaskFuture

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
_AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"


class Life:
    """What of an executor outlives it while its tasks do."""

    def __init__(self, pool: TaskPool, lost_breaks_pool: bool) -> None:
        self.pool = pool
        self.told: SimpleQueue[None] = SimpleQueue()
        self.broken: str | None = None
        self._lost_breaks_pool = lost_breaks_pool
        self._forced: frozenset[Hashable] = frozenset()  # tids of what ran when it was broken
        self._shut = False
        self._lock = threading.RLock()  # of the start; a signal handler may shut down
        self._closer: threading.Thread | None = None
        self._pid = os.getpid()

    def in_own_process(self) -> bool:
        return self._pid == os.getpid()

    def begin(self) -> Callable[..., TaskFuture[Any]]:
        """Starts the workers, once; returns what submits tasks."""
        pool = self.pool
        pool._check_process()
        with self._lock:
            if self._closer is None:
                if self._shut or self.broken or _exiting:
                    raise self.refusal()
                closer = threading.Thread(
                    target=self._close_when_told, name="TaskPoolExecutor-closer", daemon=True
                )
                try:
                    pool.run(wait=False)
                    self._closer = closer
                    _lives.add(self)
                    closer.start()
                    self._pass_on()  # a signal handler may have shut it down meanwhile
                except (StartError, OSError, RuntimeError) as error:
                    self._closer = None
                    _lives.discard(self)
                    self.broken = f"the workers could not be started: {error}"
                    pool.terminate()
                    raise self.refusal() from error
        return pool._submit_future

    def _close_when_told(self) -> None:
        try:
            self.told.get()
            self.pool.close()
            self.pool.join()
        finally:
            _lives.discard(self)

    def shut(self) -> None:
        """No new tasks. Returns at once."""
        with self._lock:
            self._shut = True
            self._pass_on()

    def _pass_on(self) -> None:
        if self._shut and self._closer is not None:
            self.pool.close()
            self.told.put(None)

    def wait(self) -> None:
        """After shut(): until all is done and gone, but not in the reaper."""
        closer = self._closer
        if closer is None or self.pool._inside_callback:
            return
        if closer is not threading.current_thread():  # it may run destructors
            closer.join()

    def cancel_pending(self) -> None:
        for job in self.pool._pending_jobs():
            job.cancel()

    def ended_by_force(self) -> None:
        """What is in flight is about to be ended, since the executor is."""
        self._forced |= {job.tid for job in self.pool._pending_jobs()}

    def why_broken(self) -> str | None:
        if self.broken is None:
            self.broken = self.pool._why_broken
        return self.broken

    def refusal(self) -> RuntimeError:
        """What submit() raises."""
        if broken := self.why_broken():
            return BrokenProcessPool(broken)
        if _exiting:
            return RuntimeError(_AFTER_EXIT)
        return RuntimeError(_AFTER_SHUTDOWN)

    def failure_of(self, error: BaseException, job: AsyncResult[Any]) -> BaseException:
        """What the future of a task that was ended by `error` raises."""
        if type(error.__cause__) is RemoteTraceback:  # raised by the task
            return error
        if isinstance(error, (PoolTerminated, CrashLoopError, StartError)):
            return _broken_by(error)
        if isinstance(error, WorkerLostError) and self._lost_breaks_pool:
            return _broken_by(error)
        if isinstance(error, (TaskTerminated, WorkerLostError)) and job.tid in self._forced:
            return _broken_by(error)
        return error


def _broken_by(error: BaseException) -> BrokenProcessPool:
    broken = BrokenProcessPool(str(error))
    broken.__cause__ = error
    return broken


# ---- the interpreter's exit ----

_lives: set[Life] = set()  # whose closer has not done its work
_exiting = False


def _at_exit() -> None:
    """Before the interpreter ends: what was submitted is finished first."""
    global _exiting
    _exiting = True
    lives = list(_lives)
    for life in lives:
        life.told.put(None)
    for life in lives:
        life.wait()


# before non-daemon threads are joined, and so before atexit: later no thread starts
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_lives.clear)
