"""TaskPool: the documented API over the compiled core."""

from __future__ import annotations

import logging
import multiprocessing
import operator
import signal
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, Self

from ._poolcore import AsyncResult, CallbacksIn, Core, PoolState, TaskPoolBase
from .child.plan import WorkerPlan, stack_signal
from .einfo import ExceptionInfo
from .errors import PoolError, PoolRunning
from .host.cpus import usable_cpus
from .supervision.supervisor import Phase, Policy, Supervisor
from .wire import picklers
from .wire.picklers import Pickler

Callback = Callable[[Any, Any], object]
Callbacks = Callback | Iterable[Callback] | None

#: Bytes; measured by benchmarks/workloads/payload.py, see docs/performance.md.
SEGMENT_THRESHOLD = 16384

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
    cancelled: int  # of the failed: taken back before their start
    expired: int  # of the failed: not started in time
    workers: int  # processes alive
    #: Ends of workers by reason: "recycled" (maxtasksperchild), "memory", "hard_limit",
    #: "terminated" (by AsyncResult.terminate), "shrunk", "signal", "exit_code",
    #: "failed_start", "stopped" (with the pool); and "soft_limit", the soft limits
    #: signalled, which end no worker.
    exits: Mapping[str, int]


@dataclass(frozen=True)
class DrainReport:
    """What :meth:`TaskPool.drain` leaves; tasks are given by their ``meta``."""

    finished: int  # reaped while draining
    not_started: list[Any]  # will never run
    running: list[Any]  # were killed


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
    :param soft_timeout: seconds after its start when SoftTimeLimitExceeded is raised
        inside a task; None: no limit. A task may have its own.
    :param timeout: seconds after its start when a task is killed; it fails with
        TimeLimitExceeded and its worker is replaced. None: no limit.
    :param kill_grace: seconds between the signal that asks a worker to end and
        SIGKILL.
    :param leave_timeout: seconds that a worker which was told to leave may take
        after its last task (for `finalizer`, and processes and threads that tasks
        have left) before it is killed.
    :param kill_group: make each worker the leader of a process group and kill the
        group with it, so that children of a task go, too.
    :param soft_signal: the signal that carries the soft limit to the worker.
    :param max_bytes: most bytes of pickled arguments in flight; None: no limit.
    :param maxtasksperchild: tasks after which a worker is recycled; None: never.
    :param max_memory_per_child: KiB of anonymous resident memory above which a
        worker is recycled after its task.
    :param memory_kill: KiB above which it is killed at once and its task fails with
        MemoryLimitExceeded.
    :param max_restarts: workers that may die within `restart_window` seconds without
        having finished a task; past it the pool is broken (CrashLoopError).
    :param restart_window: in seconds.
    :param finalizer: called in each worker that leaves in order.
    :param ignore_sigint: workers ignore SIGINT, so that a Ctrl-C at the terminal is
        the parent's alone.
    :param spin: microseconds that a waiting thread spins before it gives the CPU
        away; ``"auto"``: as suits the number of CPUs; 0: never.
    :param pickler: pickles targets, arguments and results: anything with `dumps` and
        `loads` as in the module pickle (None: that module). With the module
        cloudpickle also lambdas, closures and functions of ``__main__``, which
        then travel with each task.
    :param segment_threshold: bytes from which a buffer of an argument or result (of an
        array, say) leaves the pickle for shared memory of its own. Pickles of more
        than 65504 bytes do so in any case.
    :param copy: False: arrays (and whatever else pickles its buffers apart) of 1 MiB
        and more live in shared memory, in tasks and as results, writable, and it is
        used again when the last of them is gone. True: they get memory of their own.

    Thread-safe; callbacks may call the pool. A forked child cannot use it
    (:exc:`WrongProcess`).

    Every submission gets exactly one outcome; a task body starts at most once.
    """

    # The facades beside (pool, executor, aio) build on this class. Of what is private here
    # they use `_core`, `_context`, this switch, and the parts that run() and terminate()
    # are made of: `_check_ended`, `_begin_start`, `_await_start`, `_kill`.

    _lost_breaks_pool = False  # of a subclass: the first worker that dies unasked ends it all

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
        soft_timeout: float | None = None,
        timeout: float | None = None,
        kill_grace: float = 1.0,
        leave_timeout: float = 60.0,
        kill_group: bool = False,
        soft_signal: int = signal.SIGUSR1,
        max_bytes: int | None = None,
        maxtasksperchild: int | None = None,
        max_memory_per_child: int | None = None,
        memory_kill: int | None = None,
        max_restarts: int = 100,
        restart_window: float = 60.0,
        finalizer: Callable[[], object] | None = None,
        ignore_sigint: bool = True,
        pickler: Pickler | None = None,
        segment_threshold: int = SEGMENT_THRESHOLD,
        copy: bool = False,
    ) -> None:
        if limit is not None:
            limit = _count("limit", limit)
        if processes is not None:
            processes = _count("processes", processes)
            if limit is not None and processes > limit:
                raise ValueError(
                    f"processes={processes} is more than limit={limit}: some would never work"
                )
        for name, given in (("initializer", initializer), ("finalizer", finalizer)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} must be callable, not {type(given).__name__}")
        if callbacks_in not in _CALLBACKS_IN:
            raise ValueError(
                f"callbacks_in must be 'any', 'reaper' or 'caller', not {callbacks_in!r}"
            )
        for name, seconds in (
            ("start_timeout", start_timeout),
            ("kill_grace", kill_grace),
            ("leave_timeout", leave_timeout),
            ("restart_window", restart_window),
            ("reap_timeout", 0 if reap_timeout is None else reap_timeout),
            ("spin", 0 if spin == "auto" else spin),
            ("soft_timeout", 0 if soft_timeout is None else soft_timeout),
            ("timeout", 0 if timeout is None else timeout),
        ):
            _seconds(name, seconds)
        self.reap_timeout = reap_timeout
        self._logger = logger or logging.getLogger("celery_pool")
        self.processes = processes or limit or usable_cpus()
        self._context = (
            context if isinstance(context, BaseContext) else multiprocessing.get_context(context)
        )
        self._policy = Policy(
            start_timeout=start_timeout,
            max_tasks=_count_or_none("maxtasksperchild", maxtasksperchild),
            max_memory=_count_or_none("max_memory_per_child", max_memory_per_child),
            memory_kill=_count_or_none("memory_kill", memory_kill),
            kill_grace=kill_grace,
            leave_timeout=leave_timeout,
            max_restarts=_count("max_restarts", max_restarts),
            restart_window=restart_window,
            lost_breaks_pool=self._lost_breaks_pool,
        )
        self._limits = (
            soft_timeout,
            timeout,
            _count_or_none("max_bytes", max_bytes),
            max_memory_per_child is not None or memory_kill is not None,
        )
        self._callbacks_in = _CALLBACKS_IN[callbacks_in]
        self._patience = _patience(spin, self.processes)
        self._pickler = picklers.checked(pickler)
        self._threshold = _count("segment_threshold", segment_threshold)
        self._copy = copy
        self._plan = WorkerPlan(
            initializer,
            tuple(initargs),
            finalizer,
            *self._patience,
            ignore_sigint,
            _soft_signal(soft_signal),
            kill_group,
            picklers.to_send(self._pickler),
            self._threshold,
            self._copy,
        )
        self._supervisor: Supervisor | None = None
        self._finalizer: util.Finalize | None = None
        self._run_lock = threading.Lock()
        self._core = self._new_core(limit, 0)

    def _new_core(self, limit: int | None, last_tid: int) -> Core:
        overridden = (
            type(self).on_return is not TaskPool.on_return
            or type(self).on_ready is not TaskPool.on_ready
        )
        core = Core(
            limit,
            self._callbacks_in,
            overridden,
            self._logger,
            last_tid,
            pickler=self._pickler,
            threshold=self._threshold,
            copies=self._copy,
        )
        core.set_patience(*self._patience)
        core.set_limits(*self._limits)
        return core

    # ---- life ----

    def run(self, *, wait: bool = True) -> None:
        """Starts all workers; returns when each has finished its initializer.

        After ``terminate()``, or ``close()`` and ``join()``, starts afresh; tids
        stay unique.

        :param wait: False: return at once. Tasks wait for the workers; if these
            cannot be started, the pool is broken: what is in flight and later
            submissions fail with StartError.
        :raises PoolRunning: it runs already (or has not ended yet).
        :raises StartError: not ready within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised. No process is left then.
        """
        self._core.check_process()
        with self._run_lock:
            supervisor = self._begin_start(wait)
            if wait:
                self._await_start(supervisor)
            else:
                self._has_started(supervisor)

    def _check_ended(self) -> None:
        """PoolRunning if it may not be started."""
        if self._supervisor is not None and not self._supervisor.has_ended:
            raise PoolRunning("the pool is running, or has not ended yet")

    def _begin_start(self, attended: bool = True) -> Supervisor:
        """The part of run() that forks; it waits for nothing."""
        self._check_ended()
        core = self._core
        if core.state != PoolState.IDLE:
            core = self._core = self._new_core(core.limit, core.last_tid)
        core.state = PoolState.STARTING
        supervisor = Supervisor(core, self._plan, self._policy, self._context, self.processes)
        try:
            supervisor.begin(attended)
        except BaseException:
            self._core = self._new_core(core.limit, core.last_tid)
            raise
        return supervisor

    def _await_start(self, supervisor: Supervisor) -> None:
        core = supervisor.core
        try:
            supervisor.await_ready()
        except BaseException:
            self._core = self._new_core(core.limit, core.last_tid)
            raise
        self._has_started(supervisor)

    def _has_started(self, supervisor: Supervisor) -> None:
        supervisor.core.started()
        self._supervisor = supervisor
        self._finalizer = util.Finalize(
            self, _end, args=(supervisor.core, supervisor), exitpriority=15
        )

    def close(self) -> None:
        """No new tasks; those in flight go on. Idempotent."""
        self._core.check_process()
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
        self._core.check_process()
        core, supervisor = self._core, self._supervisor
        if core.state == PoolState.RUNNING:
            raise ValueError("join() needs close() or terminate() first")
        if supervisor is None:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if not core.wait_drained(timeout) or core.inside_callback:
            return False
        supervisor.stop()
        if not supervisor.join(None if deadline is None else deadline - time.monotonic()):
            return False
        self._has_ended(core, supervisor)
        return True

    def terminate(self) -> None:
        """Kills the workers; what was in flight ends with PoolTerminated, and its
        errbacks run. Idempotent, and bounded in time.

        From any thread, from a callback, and from a signal handler: where it has
        interrupted a call of this pool, errbacks run after the handler.
        """
        self._core.check_process()
        supervisor = self._kill()
        if supervisor is not None:
            supervisor.join(None)
            if not supervisor.core.inside_call:
                self._has_ended(supervisor.core, supervisor)

    def _kill(self) -> Supervisor | None:
        """The part of terminate() that does not wait. None: the pool was never run."""
        core, supervisor = self._core, self._supervisor
        if supervisor is not None:
            if core.state != PoolState.BROKEN or supervisor.phase is Phase.ENDED:
                core.state = PoolState.TERMINATED
            core.wake()
            supervisor.kill()
        return supervisor

    def drain(self, timeout: float | None = None) -> DrainReport:
        """What a consumer needs on SIGTERM: takes no new tasks, waits at most
        `timeout` seconds for those in flight, ends the pool, and tells which tasks
        have not started and which were running (and were killed): by their metas.

        Not inside a callback.
        """
        self._core.check_process()
        core = self._core
        if core.inside_callback:
            raise PoolError("drain() cannot be called by a callback")
        self.close()
        pending = core.pending
        not_started: list[Any] = []
        running: list[Any] = []
        if core.wait_drained(timeout):
            self.join()
        else:
            not_started, running = core.give_up_pending()
            self.terminate()
        return DrainReport(pending - len(not_started) - len(running), not_started, running)

    def _has_ended(self, core: Core, supervisor: Supervisor) -> None:
        if core.caller_dispatches:
            core.wait_drained(None)
        supervisor.join_threads()
        finalizer, self._finalizer = self._finalizer, None  # two threads may come here
        if finalizer is not None:
            finalizer.cancel()

    def grow(self, n: int = 1) -> None:
        """Keeps `n` workers more. ValueError if the limit is too low for them."""
        self._resize(self.processes + _count("n", n))

    def shrink(self, n: int = 1) -> None:
        """Lets `n` workers go: idle ones first, and never one that runs a task
        before it has ended. ValueError if none would be left."""
        self._resize(self.processes - _count("n", n))

    def _resize(self, processes: int) -> None:
        self._core.check_process()
        if processes < 1:
            raise ValueError(f"a pool of {self.processes} cannot shrink to {processes} workers")
        limit = self.limit
        if limit is not None and processes > limit:
            raise ValueError(
                f"processes={processes} is more than limit={limit}: some would never work"
            )
        self.processes = processes
        if self._supervisor is not None:
            self._supervisor.resize(processes)

    def __enter__(self) -> Self:
        self._core.check_process()
        if self._supervisor is None or self._supervisor.has_ended:
            self.run()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._supervisor is not None and not self._supervisor.in_own_process():
            return  # a forked child leaves: the pool is its parent's
        if exc_type is None:
            self.close()
            self.join()
        else:
            self.terminate()

    def __del__(self) -> None:
        # the finalizer may have run before us, but only a proper end takes it away
        supervisor = getattr(self, "_supervisor", None)
        if (
            supervisor is not None
            and self._finalizer is not None
            and supervisor.in_own_process()
            and not supervisor.at_exit
        ):
            warnings.warn(
                f"unclosed running pool {self!r}", ResourceWarning, source=self, stacklevel=2
            )

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

    def on_ready(
        self, ret_value: Any, callbacks: Callbacks, errbacks: Callbacks, meta: Any
    ) -> None:
        """What to do when a task's return value has been collected: on success
        every ``callback(result, meta)``, on failure every ``errback(exc, meta)``.

        A callback's exception is logged and counted. A subclass may override this.
        """
        if isinstance(ret_value, ExceptionInfo):
            self._core.run_callbacks(errbacks, ret_value.exception, meta)
        else:
            self._core.run_callbacks(callbacks, ret_value, meta)

    def fileno(self) -> int:
        """A descriptor for an event loop (`select`, `poll`, `epoll`, asyncio's
        ``add_reader``): readable from when a task has ended, however, until
        ``reap()`` is called, by whomever. ``reap(timeout=0)`` then runs the
        callbacks, in the loop's thread, without waiting.

        Level-triggered: a task that has ended before the loop begins to wait makes
        it readable as well. It may be so without need. The caller must neither read
        from it nor close it. From the first call on the pool's own thread leaves
        the results to the loop.

        The same descriptor until the pool ends; :meth:`run` after that, or after a
        failed :meth:`run`, comes with another.

        :raises PoolError: the pool was not made with ``callbacks_in="caller"``.

        Thread-safe; a forked child has no such descriptor (:exc:`WrongProcess`).
        """
        return self._core.fileno()

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        self._core.check_process()
        return self._supervisor.pids() if self._supervisor is not None else []

    @property
    def limit(self) -> int | None:
        """Most tasks in flight; None: no limit. May be set at any time."""
        return self._core.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        if limit is not None:
            limit = _count("limit", limit)
            if limit < self.processes:
                raise ValueError(f"limit={limit} is less than processes={self.processes}")
        self._core.limit = limit

    @property
    def logger(self) -> logging.Logger:
        """For callbacks that raise and workers that die."""
        return self._logger

    @logger.setter
    def logger(self, logger: logging.Logger | None) -> None:
        self._logger = self._core.logger = logger or logging.getLogger("celery_pool")

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
            cancelled=core.cancelled,
            expired=core.expired,
            workers=len(self.get_worker_pids()),
            exits=dict(self._supervisor.exits) if self._supervisor is not None else {},
        )


def _end(core: Core, supervisor: Supervisor) -> None:
    """The pool was dropped, or the interpreter ends."""
    supervisor.at_exit = util.is_exiting()
    if not supervisor.has_ended:
        core.state = PoolState.TERMINATED
        core.wake()
        supervisor.kill()
        supervisor.join(None)
        supervisor.join_threads()


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not bool")
    value = operator.index(value)
    if not 1 <= value < 1 << 62:
        raise ValueError(f"{name} must be from 1 to 2**62, not {value}")
    return int(value)


def _count_or_none(name: str, value: Any) -> int | None:
    return None if value is None else _count(name, value)


def _soft_signal(number: int) -> int:
    if number not in signal.valid_signals() or number in (
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        stack_signal(),
    ):
        raise ValueError(f"soft_signal={number!r} cannot carry the soft limit")
    return int(number)


def _seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"{name} must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, not {value}"
        )


def _patience(spin: float | Literal["auto"], processes: int) -> tuple[int, int]:
    """(nanoseconds to spin, times to yield) before a thread parks."""
    if spin == "auto":
        # with fewer CPUs than processes a spinner keeps the others from working
        spin = 2 if processes + 1 > usable_cpus() else 5
    elif spin == 0:
        return 0, 0
    return int(spin * 1000), 100


__all__ = ["AsyncResult", "DrainReport", "Statistics", "TaskPool"]
