"""TaskPool: the documented API over the compiled core."""

from __future__ import annotations

import logging
import multiprocessing
import operator
import os
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, Self

from ._poolcore import AsyncResult, CallbacksIn, Core, PoolState, TaskPoolBase
from .cpus import usable_cpus
from .einfo import ExceptionInfo
from .errors import PoolRunning
from .supervisor import Supervisor
from .worker import WorkerPlan

Callback = Callable[[Any, Any], object]
Callbacks = Callback | Iterable[Callback] | None

_CALLBACKS_IN = {
    "any": CallbacksIn.ANY_THREAD,
    "reaper": CallbacksIn.REAPER_ONLY,
    "caller": CallbacksIn.CALLER_ONLY,
}


@dataclass(frozen=True)
class Statistics:
    """A snapshot of :meth:`TaskPool.statistics`; counts since ``run()``."""

    submitted: int
    succeeded: int
    failed: int  # with any exception, lost ones included
    lost: int  # with WorkerLostError
    in_flight: int  # submitted and not collected
    waiting_callbacks: int  # collected, callbacks have not returned
    callback_errors: int  # exceptions raised by callbacks
    workers: int  # processes alive


class TaskPool(TaskPoolBase):
    """Pool of running child processes, which starts waiting for the processes to
    finish when the limit has been reached.

    The API is that of ``celery.pool.TaskPool`` as Celery once documented it.

    :param limit: most tasks in flight (submitted and not collected) before
        ``apply_async`` waits; None: no limit.
    :param reap_timeout: seconds that :meth:`reap` waits for the first result if
        none is there; None: not at all.
    :param logger: for callbacks that raise and workers that die; default: the
        logger ``celery_pool``.
    :param processes: worker processes; default: `limit`, or without a limit the
        CPUs usable by this process (affinity and cgroup quota). At most `limit`;
        with a larger limit tasks queue at the workers.
    :param context: a multiprocessing context or a start method's name; default:
        multiprocessing's own default.
    :param initializer: called as ``initializer(*initargs)`` in each worker before
        its first task.
    :param start_timeout: seconds within which :meth:`run` has to have all workers
        ready.
    :param callbacks_in: where callbacks run, never two at once. ``"any"``: in the
        background reaper, or in a thread inside ``apply_async``, ``add``, ``reap``,
        ``wait_for_result`` or ``join``, as in the original; ``get()`` and
        ``wait()`` run at most their own job's. ``"reaper"``: in the background
        thread only. ``"caller"``: inside those calls only.
    :param spin: microseconds that a waiting thread spins before it gives the CPU
        away; ``"auto"``: as suits the number of CPUs; 0: never.

    Thread-safe; callbacks may call the pool. A forked child cannot use it
    (:exc:`WrongProcess`).

    Every submission gets exactly one outcome; a task body starts at most once.
    """

    def __init__(
        self,
        limit: int | None,
        reap_timeout: float | None = None,
        logger: logging.Logger | None = None,
        *,
        processes: int | None = None,
        context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        start_timeout: float = 60,
        callbacks_in: Literal["any", "reaper", "caller"] = "any",
        spin: float | Literal["auto"] = "auto",
    ) -> None:
        if limit is not None:
            limit = _count("limit", limit)
        if processes is not None:
            processes = _count("processes", processes)
            if limit is not None and processes > limit:
                raise ValueError(f"processes={processes} is more than limit={limit}: some would never work")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {type(initializer).__name__}")
        if callbacks_in not in _CALLBACKS_IN:
            raise ValueError(f"callbacks_in must be 'any', 'reaper' or 'caller', not {callbacks_in!r}")
        _seconds("start_timeout", start_timeout)
        if reap_timeout is not None:
            _seconds("reap_timeout", reap_timeout)
        if spin != "auto":
            _seconds("spin", spin)
        self.reap_timeout = reap_timeout
        self.logger = logger or logging.getLogger("celery_pool")
        self.processes = processes or limit or usable_cpus()
        self._context = (
            context if isinstance(context, BaseContext) else multiprocessing.get_context(context)
        )
        self._start_timeout = start_timeout
        self._callbacks_in = _CALLBACKS_IN[callbacks_in]
        self._patience = _patience(spin, self.processes)
        self._plan = WorkerPlan(initializer, tuple(initargs), *self._patience)
        self._supervisor: Supervisor | None = None
        self._finalizer: util.Finalize | None = None
        self._run_lock = threading.Lock()
        self._core = self._new_core(limit, 0)

    def _new_core(self, limit: int | None, last_tid: int) -> Core:
        overridden = (
            type(self).on_return is not TaskPool.on_return
            or type(self).on_ready is not TaskPool.on_ready
        )
        core = Core(limit, self._callbacks_in, overridden, self.logger, last_tid)
        core.set_patience(*self._patience)
        return core

    # ---- life ----

    def run(self) -> None:
        """Starts all workers; returns when each has finished its initializer.

        After ``terminate()``, or ``close()`` and ``join()``, starts afresh; tids
        stay unique.

        :raises PoolRunning: it runs already (or has not ended yet).
        :raises StartError: not ready within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised. No process is left then.
        """
        with self._run_lock:
            if self._supervisor is not None and not self._supervisor.ended.is_set():
                raise PoolRunning("the pool is running, or has not ended yet")
            old = self._core
            core = self._new_core(old.limit, old.last_tid)
            core.state = PoolState.STARTING
            supervisor = Supervisor(
                core, self._plan, self._context, self.processes, self._start_timeout
            )
            supervisor.start()
            core.state = PoolState.RUNNING
            self._core = core
            self._supervisor = supervisor
            self._finalizer = util.Finalize(self, _end, args=(core, supervisor), exitpriority=15)

    def close(self) -> None:
        """No new tasks; those in flight go on. Idempotent."""
        core = self._core
        if core.state == PoolState.RUNNING:
            core.state = PoolState.CLOSED
            core.wake()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until all tasks are reaped and all workers gone.

        :param timeout: seconds at most; None: without limit.
        :returns: whether that is so.
        :raises ValueError: the pool was neither closed nor terminated.

        Inside a callback it waits only until all tasks are collected: the
        callbacks, and so the workers' end, wait for the one that is running.
        """
        core, supervisor = self._core, self._supervisor
        if core.state == PoolState.RUNNING:
            raise ValueError("join() needs close() or terminate() first")
        if supervisor is None:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if not core.wait_drained(timeout):
            return False
        supervisor.stop()
        if core.inside_callback:
            return False
        if not supervisor.join(None if deadline is None else max(0.0, deadline - time.monotonic())):
            return False
        self._ended()
        return True

    def terminate(self) -> None:
        """Kills the workers; what was in flight ends with PoolTerminated, and its
        errbacks run. Idempotent."""
        core, supervisor = self._core, self._supervisor
        if supervisor is None or supervisor.ended.is_set():
            return
        core.state = PoolState.TERMINATED
        core.wake()
        supervisor.kill()
        supervisor.join(None)
        if not core.inside_callback and not supervisor.is_own_thread():
            core.wait_drained(None)
        self._ended()

    def _ended(self) -> None:
        if self._finalizer is not None:
            self._finalizer.cancel()
            self._finalizer = None

    def __enter__(self) -> Self:
        if self._supervisor is None or self._supervisor.ended.is_set():
            self.run()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.close()
            self.join()
        else:
            self.terminate()

    def __del__(self) -> None:
        supervisor = getattr(self, "_supervisor", None)
        if supervisor is not None and not supervisor.ended.is_set() and supervisor.in_own_process():
            warnings.warn(f"unclosed running pool {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        core = self._core
        return (
            f"<{type(self).__name__} {core.state_name()} limit={core.limit} "
            f"processes={self.processes} in_flight={core.in_flight}>"
        )

    # ---- the queue ----

    def add(
        self,
        result: Any,
        callbacks: Callbacks = None,
        errbacks: Callbacks = None,
        tid: Hashable | None = None,
        meta: Any = None,
    ) -> Hashable:
        """Puts a *foreign* result in the queue. If the queue is full, waits for the
        first task, reaps it, then adds.

        :param result: a result of a :class:`multiprocessing.Pool`, anything with
            ``ready`` and ``get``, or a :class:`concurrent.futures.Future`.
        :param tid: its pool-unique id; default: a fresh one.
        :returns: the tid.
        :raises ValueError: the tid is in use, or the result is in the queue already.
        :raises TypeError: the result is none of those, or a callback not callable.

        It counts against the limit. Results that cannot notify are polled with a
        back-off from 1 to 50 ms, so a pool that waits for one is not at rest. What
        happens to it outside of this pool is not guaranteed.
        """
        return self._core.add_foreign(result, callbacks, errbacks, tid, meta, self)

    def on_return(
        self,
        ret_val: Any,
        tid: Hashable,
        callbacks: Callbacks,
        errbacks: Callbacks,
        meta: Any,
    ) -> None:
        """What to do when a task returns: removes the tid from the queue and calls
        :meth:`on_ready`. A tid that is no longer there is ignored.

        A subclass may override it; it is then called for every task, with an
        :class:`ExceptionInfo` as `ret_val` if the task failed.
        """
        if self._core.take_out(tid, ret_val):
            self.on_ready(ret_val, callbacks, errbacks, meta)

    def on_ready(self, ret_value: Any, callbacks: Callbacks, errbacks: Callbacks, meta: Any) -> None:
        """What to do when a task's return value has been collected: on success
        every ``callback(result, meta)``, on failure every ``errback(exc, meta)``.

        A callback's exception is logged and counted. A subclass may override this.
        """
        if isinstance(ret_value, ExceptionInfo):
            self._core.run_callbacks(errbacks, ret_value.exception, meta)
        else:
            self._core.run_callbacks(callbacks, ret_value, meta)

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._supervisor.pids() if self._supervisor is not None else []

    @property
    def limit(self) -> int | None:
        """Most tasks in flight; None: no limit."""
        return self._core.limit

    def statistics(self) -> Statistics:
        """A snapshot of the pool's counters since ``run()``."""
        core = self._core
        return Statistics(
            submitted=core.submitted,
            succeeded=core.succeeded,
            failed=core.failed,
            lost=core.lost,
            in_flight=core.in_flight,
            waiting_callbacks=core.waiting_callbacks,
            callback_errors=core.callback_errors,
            workers=len(self.get_worker_pids()),
        )


def _end(core: Core, supervisor: Supervisor) -> None:
    """The pool was dropped, or the interpreter ends."""
    if not supervisor.ended.is_set():
        core.state = PoolState.TERMINATED
        core.wake()
        supervisor.kill()
        supervisor.join(None)


def _count(name: str, value: Any) -> int:
    value = operator.index(value)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return int(value)


def _seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must not be negative")


def _patience(spin: float | Literal["auto"], processes: int) -> tuple[int, int]:
    """(nanoseconds to spin, times to yield) before a thread parks."""
    if spin == "auto":
        # with fewer CPUs than processes a spinner keeps the others from working
        spin = 2 if processes + 1 > usable_cpus() else 5
    elif spin == 0:
        return 0, 0
    return int(spin * 1000), 100


__all__ = ["AsyncResult", "Statistics", "TaskPool"]
