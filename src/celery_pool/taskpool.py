"""TaskPool: the documented API over the compiled core."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable
from multiprocessing import util
from multiprocessing.context import BaseContext
from types import TracebackType

from ._poolcore import AsyncResult, Core, PoolState, TaskPoolBase, check_callable
from .child.plan import GROUP_SIGNALS
from .einfo import ExceptionInfo
from .errors import PoolError, PoolNotRunning, PoolRunning, PoolTerminated, SoftTimeLimitExceeded
from .options import SEGMENT_THRESHOLD, PoolOptions, count
from .supervision.policy import Phase
from .supervision.supervisor import Supervisor
from .wire.remote import without_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Literal, Protocol, Self

    from .reports import DrainReport, Statistics
    from .wire.picklers import Pickler

    Callback = Callable[[Any, Any], object]
    Callbacks = Callback | Iterable[Callback] | None

    class LoopSide(Protocol):
        """One run of a pool as an event loop sees it, in the loop's thread alone."""

        @property
        def running(self) -> bool:
            """Whether the pool takes tasks."""

        @property
        def in_flight(self) -> int:
            """Submitted and not collected."""

        @property
        def pending(self) -> int:
            """Whose callbacks have not returned."""

        @property
        def reaped(self) -> int:
            """How many have ended, callbacks included."""

        def hush(self) -> object:
            """The loop looks by itself, by poll(), until listen()."""

        def listen(self) -> None:
            """The loop is about to sleep at the pool's descriptor."""

        def poll(self) -> int:
            """Reaps what has ended, without waiting; returns how many."""


class TaskPool(TaskPoolBase):
    """Pool of running child processes, which starts waiting for the processes to
    finish when the limit has been reached.

    The API is that of ``celery.pool.TaskPool`` as Celery once documented it.

    :param limit: most tasks in flight (submitted and not collected) before
        ``apply_async`` waits; None: no limit.
    :param reap_timeout: seconds that :meth:`reap` waits for the first result if
        none is there; None: not at all.
    :param logger: for callbacks that raise and what happens to workers: deaths and limits
        that hit (WARNING), starts that fail and the end of the pool (ERROR), restarts and
        tasks ended by hand (INFO), ends as planned (DEBUG); records have the facts as attributes:
        `event`, `pid`, `exitcode`, `signal`, `tid`, `function`. Default: the logger
        ``celery_pool``. A handler that waits delays time limits.
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
        SIGKILL. The task is reported as failed within 0.2 seconds all the same.
    :param hard_grace: the same after `timeout`; None: `kill_grace`.
    :param leave_timeout: seconds that a worker which was told to leave may take
        after its last task (for `finalizer`, and processes and threads that tasks
        have left) before it is killed.
    :param kill_group: make each worker the leader of a process group and kill the
        group with it, so that children of a task go, too.
    :param soft_signal: the signal that carries the soft limit to the worker.
    :param soft_limit_error: the class that is raised by it.
    :param soft_limit_repeat: seconds after which it is raised again in a task that goes on;
        None: never.
    :param on_soft_timeout: called as ``on_soft_timeout(tid)`` when a soft limit has been
        signalled.
    :param on_timeout: called as ``on_timeout(tid)`` when a task is past its `timeout`. Both
        as `on_broken` is.
    :param max_bytes: most bytes of pickled arguments in flight; None: no limit.
    :param maxtasksperchild: tasks after which a worker is recycled; None: never. Its
        successor stands by, and is given its first task when the last result of the old
        one is here: never more than `processes` tasks run at a time.
    :param max_memory_per_child: KiB of anonymous resident memory above which a
        worker is recycled after its task.
    :param memory_kill: KiB above which it is killed at once and its task fails with
        MemoryLimitExceeded.
    :param max_restarts: how often each worker (on average) may die, once ready, within
        `restart_window` seconds without having begun a task; past it the pool is broken
        (CrashLoopError).
    :param restart_window: in seconds.
    :param start_retries: how often in a row the start of a replacement may be tried again
        after it has failed (its initializer raises, or is not done within `start_timeout`)
        before the pool is broken (CrashLoopError); None: for ever. Tasks wait meanwhile.
        One worker at a time tries, after a delay that grows to a second, in an outage of
        minutes to a sixtieth of its length, 30 seconds at most; when it succeeds the
        others follow.
    :param on_start: called as ``on_start()``, once a :meth:`run`, when all workers have
        become ready; of interest with ``run(wait=False)``.
    :param on_broken: called as ``on_broken(error)`` when the pool breaks, with the
        CrashLoopError or StartError that its tasks end with. A :meth:`run` that raises
        has not broken it. Both run in a thread of their own, one after the other, and
        beside callbacks; they may call the pool. What they raise is logged.
    :param template_initializer: called as ``template_initializer(*template_initargs)`` once,
        in the process from which all workers are forked, before the first of them: what it
        imports and loads is there in every worker, at the cost of a fork. It must leave no
        thread running; its time counts in `start_timeout`. What it raises, :meth:`run` raises.
        If that process is killed, the one that takes its place calls it again.
    :param reseed: give each worker a state of its own of NumPy's global random generator, if
        ``numpy.random`` is loaded. False: under fork all have that of :meth:`run`.
    :param blas_threads: threads that numeric libraries (BLAS, OpenMP, Numba, NumExpr) use in a
        worker: those that are loaded by `template_initializer` or later are told by environment
        variables, the others by threadpoolctl, if that is installed. ``"auto"``: the CPUs
        usable by this process, shared out among the workers, but what the environment says at
        :meth:`run` is left as it is. None: whatever they take.
    :param finalizer: called in each worker that leaves in order: as ``finalizer()``,
        ``finalizer(pid)`` or ``finalizer(pid, exitcode)``, as its signature asks.
    :param leave_on: a class of exceptions, or a tuple of them: a worker whose task has
        raised one leaves, once it has told so, and is replaced. By default none.
    :param shield: signals that do not end workers when their process group gets them (from
        a terminal, ``timeout``, systemd, ``docker stop``), so that the program can drain the
        pool. Those that the pool or its program sends to a worker still do, but for
        SIGINT, and those that a task sends to itself. Processes that tasks start do not inherit
        it. The template outlives them in any case.
    :param ignore_sigint: True, False: `shield` with or without SIGINT.
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
        hard_grace: float | None = None,
        leave_timeout: float = 60.0,
        kill_group: bool = False,
        soft_signal: int = signal.SIGUSR1,
        soft_limit_error: type[BaseException] = SoftTimeLimitExceeded,
        soft_limit_repeat: float | None = None,
        on_soft_timeout: Callable[[Hashable], object] | None = None,
        on_timeout: Callable[[Hashable], object] | None = None,
        max_bytes: int | None = None,
        maxtasksperchild: int | None = None,
        max_memory_per_child: int | None = None,
        memory_kill: int | None = None,
        max_restarts: int = 100,
        restart_window: float = 60.0,
        start_retries: int | None = None,
        on_start: Callable[[], object] | None = None,
        on_broken: Callable[[BaseException], object] | None = None,
        template_initializer: Callable[..., object] | None = None,
        template_initargs: Iterable[Any] = (),
        reseed: bool = True,
        blas_threads: int | Literal["auto"] | None = None,
        finalizer: Callable[..., object] | None = None,
        leave_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        shield: Iterable[int] = GROUP_SIGNALS,
        ignore_sigint: bool | None = None,
        pickler: Pickler | None = None,
        segment_threshold: int = SEGMENT_THRESHOLD,
        copy: bool = False,
    ) -> None:
        self._options = options = PoolOptions(
            limit=limit,
            reap_timeout=reap_timeout,
            processes=processes,
            context=context,
            initializer=initializer,
            initargs=initargs,
            start_timeout=start_timeout,
            callbacks_in=callbacks_in,
            spin=spin,
            soft_timeout=soft_timeout,
            timeout=timeout,
            kill_grace=kill_grace,
            hard_grace=hard_grace,
            leave_timeout=leave_timeout,
            kill_group=kill_group,
            soft_signal=soft_signal,
            soft_limit_error=soft_limit_error,
            soft_limit_repeat=soft_limit_repeat,
            on_soft_timeout=on_soft_timeout,
            on_timeout=on_timeout,
            max_bytes=max_bytes,
            maxtasksperchild=maxtasksperchild,
            max_memory_per_child=max_memory_per_child,
            memory_kill=memory_kill,
            max_restarts=max_restarts,
            restart_window=restart_window,
            start_retries=start_retries,
            on_start=on_start,
            on_broken=on_broken,
            template_initializer=template_initializer,
            template_initargs=template_initargs,
            reseed=reseed,
            blas_threads=blas_threads,
            finalizer=finalizer,
            leave_on=leave_on,
            shield=shield,
            ignore_sigint=ignore_sigint,
            pickler=pickler,
            segment_threshold=segment_threshold,
            copy=copy,
        )
        self.reap_timeout = reap_timeout
        self._logger = logger
        self.processes = options.processes
        self._supervisor: Supervisor | None = None
        self._starting: Supervisor | None = None  # the same, until run() returns
        self._finalizer: util.Finalize | None = None
        self._run_lock = threading.Lock()
        self._core = self._new_core(options.limit, 0)

    def _new_core(self, limit: int | None, last_tid: int) -> Core:
        overridden = (
            type(self).on_return is not TaskPool.on_return
            or type(self).on_ready is not TaskPool.on_ready
        )
        return self._options.new_core(limit, overridden, self._logger, last_tid)

    # ---- life ----

    def run(self, *, wait: bool = True) -> None:
        """Starts all workers; returns when each has finished its initializer.

        After ``terminate()``, or ``close()`` and ``join()``, or when the pool is broken,
        starts afresh; tids stay unique.

        :param wait: False: return at once. Tasks wait for the workers; if these
            cannot be started, the pool is broken: what is in flight and later
            submissions fail with StartError.
        :raises PoolRunning: it runs already (or has not ended yet).
        :raises StartError: not ready within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised. No process is left then.
        :raises PoolTerminated: :meth:`terminate` or :meth:`close` was called meanwhile.
        """
        self._core.check_process()
        with self._run_lock:
            supervisor = self._begin_start(wait)
            if wait:
                self._finish_start(supervisor)
            else:
                self._has_started(supervisor)

    def _has_started(self, supervisor: Supervisor) -> None:
        supervisor.core.started()
        self._supervisor = supervisor
        self._starting = None
        if self._finalizer is not None:  # of a broken run, inside a callback of which we are
            self._finalizer.cancel()
        self._finalizer = util.Finalize(
            self, _end, args=(supervisor.core, supervisor), exitpriority=15
        )

    def close(self) -> None:
        """No new tasks; those in flight go on. Idempotent. While :meth:`run` has not returned,
        it ends the start, as :meth:`terminate` does."""
        self._core.check_process()
        core = self._core
        if core.state == PoolState.RUNNING:
            core.state = PoolState.CLOSED
            core.wake()
        elif self._starting is not None:
            self._starting.end_start()

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
        interrupted a call of this pool, errbacks run after the handler. While :meth:`run`
        has not returned, it ends the start: that call raises PoolTerminated.
        """
        self._core.check_process()
        starting = self._starting
        self._begin_kill()
        if starting is not None and not starting.start.begun_here():
            starting.join(None)
        supervisor = self._supervisor
        if supervisor is not None:
            supervisor.join(None)
            if not supervisor.core.inside_call:
                self._has_ended(supervisor.core, supervisor)

    def drain(self, timeout: float | None = None) -> DrainReport:
        """What a consumer needs on SIGTERM: takes no new tasks, waits at most
        `timeout` seconds for those in flight, ends the pool, and tells which tasks
        have not started and which were running (and were killed): by their metas.

        Not inside a callback.
        """
        from .reports import DrainReport

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

    def renew(self) -> None:
        """Has all workers replaced, a few at a time, by new ones that see the program as it is
        now (under spawn and forkserver: its modules as they are on the disk): a rolling restart.
        Returns when it has begun. Tasks go on, and so do submissions and the descriptor of
        :meth:`fileno`; who runs a task ends it first. Called again meanwhile, it begins anew.

        Under fork, it forks in the calling thread, of which locks held by other threads are
        copied: best called where :meth:`run` was.

        :raises PoolNotRunning: it does not run.
        :raises OSError: no process or descriptor is to be had; all stays as it is.
        """
        self._core.check_process()
        if self._supervisor is None or not self._core.running:
            raise PoolNotRunning("the pool is not running: call run() first")
        self._supervisor.renew()

    def grow(self, n: int = 1) -> None:
        """Keeps `n` workers more. ValueError if the limit is too low for them."""
        self._resize(self.processes + count("n", n))

    def shrink(self, n: int = 1) -> None:
        """Lets `n` workers go: idle ones first, and never one that runs a task
        before it has ended. ValueError if none would be left."""
        self._resize(self.processes - count("n", n))

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
        if (
            self._supervisor is None
            or self._supervisor.has_ended
            or self._core.state == PoolState.BROKEN
        ):
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
        described = self._describe(f"limit={self.limit} processes={self.processes}")
        return f"<{type(self).__name__} {described}>"

    # ---- the queue ----

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
        """The process ids of the workers that serve: they take tasks, may still run one,
        or are being started to; at most ``processes``. Not those that stand by to replace
        one, and those that have done their last task and only have to end."""
        self._core.check_process()
        return self._supervisor.roster.pids() if self._supervisor is not None else []

    @property
    def ready(self) -> int:
        """How many workers can take tasks now."""
        self._core.check_process()
        return self._supervisor.roster.ready() if self._supervisor is not None else 0

    @property
    def limit(self) -> int | None:
        """Most tasks in flight; None: no limit. May be set at any time."""
        return self._core.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        if limit is not None:
            limit = count("limit", limit)
            if limit < self.processes:
                raise ValueError(f"limit={limit} is less than processes={self.processes}")
        self._core.limit = limit

    @property
    def logger(self) -> logging.Logger:
        """For callbacks that raise and what happens to workers."""
        return self._core.logger

    @logger.setter
    def logger(self, logger: logging.Logger | None) -> None:
        self._logger = self._core.logger = logger

    def statistics(self) -> Statistics:
        """A snapshot of the pool's counters since ``run()``."""
        from .reports import Statistics

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
            workers=0 if self._supervisor is None else self._supervisor.roster.alive(),
            exits=dict(self._supervisor.exits) if self._supervisor is not None else {},
        )

    # ---- for the facades beside: pool, executor, aio ----
    #
    # What they need of a pool and its users do not. They touch neither the core nor
    # the supervisor; tests/packaging/test_house.py holds them to it.

    _lost_breaks_pool = False  # of a subclass: the first worker that dies unasked ends it all

    def _check_ended(self) -> None:
        """PoolRunning if it may not be started. What is left of a broken one is ended."""
        if self._core.state == PoolState.BROKEN:
            self.terminate()
        if self._supervisor is not None and not self._supervisor.has_ended:
            raise PoolRunning("the pool is running, or has not ended yet")

    def _begin_start(self, attended: bool = True) -> Supervisor:
        """The part of run() that forks; it waits for nothing."""
        self._check_ended()
        core = self._core
        if core.state != PoolState.IDLE:
            core = self._core = self._new_core(core.limit, core.last_tid)
        core.state = PoolState.STARTING
        try:
            supervisor = self._starting = Supervisor(
                core,
                self._options.plan(self.processes),
                self._options.policy(self._lost_breaks_pool),
                self._options.context,
                self.processes,
            )
            supervisor.begin(attended)
        except BaseException:
            self._starting = None
            self._core = self._new_core(core.limit, core.last_tid)
            raise
        return supervisor

    def _finish_start(self, supervisor: Supervisor) -> None:
        """The rest of run(), after _begin_start(); in any thread."""
        core = supervisor.core
        try:
            supervisor.await_ready()
        except BaseException:
            self._starting = None
            self._core = self._new_core(core.limit, core.last_tid)
            raise
        self._has_started(supervisor)
        if supervisor.phase is Phase.KILLING:  # somebody did not want it any more
            self.terminate()
            raise PoolTerminated("the pool was terminated while it started")

    @property
    def _start_method(self) -> str:
        return self._options.context.get_start_method()

    @property
    def _context(self) -> BaseContext:
        return self._options.context

    def _begin_kill(self) -> None:
        """The part of terminate() that does not wait."""
        if self._starting is not None:
            self._starting.end_start()
        core, supervisor = self._core, self._supervisor
        if supervisor is not None:
            if core.state != PoolState.BROKEN or supervisor.phase is Phase.ENDED:
                core.state = PoolState.TERMINATED
            core.wake()
            supervisor.kill()

    def _join_workers(self) -> None:
        """After _begin_kill(): waits until they are gone and all tasks have their end."""
        if self._supervisor is not None:
            self._supervisor.join(None)

    def _check_process(self) -> None:
        """WrongProcess in a forked child."""
        self._core.check_process()

    @property
    def _running(self) -> bool:
        """Whether it takes tasks."""
        return self._core.running

    @property
    def _why_broken(self) -> str | None:
        """What to tell about a pool that is broken; None: it is not."""
        broken = self._core.broken
        return None if broken is None else str(broken[1]["message"])

    @property
    def _inside_callback(self) -> bool:
        """Whether the calling thread runs callbacks of this pool."""
        return self._core.inside_callback

    @staticmethod
    def _check_one_argument(callback: object, signature: str) -> None:
        """TypeError if it cannot be called with one argument, as `signature` says."""
        check_callable(callback, 1, signature)

    def _run_callbacks(self, callbacks: Callbacks, argument: Any) -> None:
        """Calls each with `argument` and a meta, as the pool calls those of its tasks."""
        self._core.run_callbacks(callbacks, argument, None)

    def _submit_ended(
        self,
        error: BaseException | None,
        callbacks: Callbacks = None,
        errbacks: Callbacks = None,
    ) -> AsyncResult:
        """A job that has ended already, with `error`, or with None as its result; its
        callbacks are dispatched like all others. Never waits for a slot."""
        return self._core.add_ended(error, callbacks, errbacks, None, self)

    def _submit_failed(
        self, error: BaseException, callbacks: Callbacks = None, errbacks: Callbacks = None
    ) -> AsyncResult:
        """The job of a submission that has raised `error`, where its caller shall not."""
        return self._submit_ended(without_frames(error), callbacks, errbacks)

    def _pending_jobs(self) -> list[AsyncResult]:
        """What is in flight, in no particular order."""
        return self._core.pending_jobs()

    def _loop_side(self) -> LoopSide:
        """Of this run, for who drives it from an event loop."""
        return self._core

    def _describe(self, what: str) -> str:
        """For a repr: with the state and what is in flight, and `what` between them."""
        core = self._core
        return f"{core.state_name()} {what} in_flight={core.in_flight}"


def _end(core: Core, supervisor: Supervisor) -> None:
    """The pool was dropped, or the interpreter ends."""
    supervisor.at_exit = util.is_exiting()
    if not supervisor.has_ended:
        core.state = PoolState.TERMINATED
        core.wake()
        supervisor.kill()
        supervisor.join(None)
        supervisor.join_threads()


__all__ = ["AsyncResult", "TaskPool"]
