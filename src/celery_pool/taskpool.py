"""TaskPool: the documented API over the compiled core."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Hashable
from multiprocessing import util
from types import TracebackType

from ._poolcore import AsyncResult, Core, PoolState, Results, Window
from .einfo import ExceptionInfo
from .errors import PoolError, PoolNotRunning, PoolRunning, PoolTerminated
from .facade_side import FacadeSide
from .options import PoolOptions, check_names
from .settings import Settings, count
from .supervision.policy import Phase
from .supervision.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Self, Unpack

    from .facade_side import Callbacks
    from .observe.facts import WorkerInfo
    from .observe.pool import PoolView
    from .reports import DrainReport, Health, Statistics


class TaskPool(FacadeSide):
    """Pool of running child processes, which starts waiting for the processes to
    finish when the limit has been reached.

    The API is that of ``celery.pool.TaskPool`` as Celery once documented it.

    :param limit: most tasks in flight (submitted and not collected) before
        ``apply_async`` waits; None: no limit.
    :param reap_timeout: seconds that :meth:`reap` waits for the first result if
        none is there; None: not at all.
    :param logger: for callbacks that raise, failures that nobody has looked at when their
        results go (ERROR), and what happens to workers: deaths and limits
        that hit (WARNING), starts that fail and the end of the pool (ERROR), restarts and
        tasks ended by hand (INFO), ends as planned (DEBUG); records have the facts as attributes:
        `event`, `pid`, `exitcode`, `signal`, `tid`, `function`. Default: the logger
        ``celery_pool``. A handler that waits delays time limits.
    :param options: by keyword; :class:`celery_pool.PoolOptions` says what each means.

    Thread-safe; callbacks may call the pool. A forked child cannot use it
    (:exc:`WrongProcess`).

    Every submission gets exactly one outcome; a task body starts at most once.
    """

    def __init__(
        self,
        limit: int | None,
        reap_timeout: float | None = None,
        logger: logging.Logger | None = None,
        **options: Unpack[PoolOptions],
    ) -> None:
        check_names(options, PoolOptions.__optional_keys__, type(self))
        self._settings = settings = Settings(limit, reap_timeout, options)
        self.reap_timeout = reap_timeout
        self._logger = logger
        self.processes = settings.processes
        self._supervisor: Supervisor | None = None
        self._starting: Supervisor | None = None  # the same, until run() returns
        self._finalizer: util.Finalize | None = None
        self._run_lock = threading.Lock()
        self._core = self._new_core(settings.limit, 0)

    def _new_core(self, limit: int | None, last_tid: int) -> Core:
        overridden = (
            type(self).on_return is not TaskPool.on_return
            or type(self).on_ready is not TaskPool.on_ready
        )
        return self._settings.new_core(limit, overridden, self._logger, last_tid)

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
        :meth:`fileno`; who runs a task ends it first. Nobody leaves before the new template has
        been initialized and a worker of it stands by: if these fail, it is logged and tried
        again (``start_retries``), and the workers stay. Called again meanwhile, it begins anew.

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
        """For callbacks that raise, failures that nobody saw, and what happens to workers."""
        return self._core.logger

    @logger.setter
    def logger(self, logger: logging.Logger | None) -> None:
        self._logger = self._core.logger = logger

    def workers(self) -> list[WorkerInfo]:
        """Each worker at this moment: what it runs, for how long, what waits behind it. Those
        that stand by or leave are among them."""
        return self._view().workers()

    def healthy(self) -> Health:
        """Whether the pool does what it is for, and if not, why: true or false in a test,
        ``reasons`` says which. A pool under load is healthy, one whose workers cannot be
        started is not."""
        from .reports import Health

        self._core.check_process()
        if self._supervisor is None or not self._core.running:
            return Health((f"the pool is {self._core.state_name()}",))
        return Health(tuple(self._supervisor.complaints()))

    def _view(self) -> PoolView:
        from .observe.pool import view_of_own

        self._core.check_process()
        self._core.show_workers()  # as it is now, not as it was when a task ended last
        return view_of_own(self._core.segment_fd)

    def statistics(self, *, functions: bool = False) -> Statistics:
        """A snapshot of the pool's counters since ``run()``.

        :param functions: with histograms of what tasks have taken, by function. They cost
            some 100 µs to read, and nothing while they are not.
        """
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
            functions=self._view().functions() if functions else None,
        )

    # ---- parts of run() and terminate(), for facades whose thread may not wait ----

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
                self._settings.plan(self.processes),
                self._settings.policy(self._lost_breaks_pool),
                self._settings.context,
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


def _end(core: Core, supervisor: Supervisor) -> None:
    """The pool was dropped, or the interpreter ends."""
    supervisor.at_exit = util.is_exiting()
    if not supervisor.has_ended:
        core.state = PoolState.TERMINATED
        core.wake()
        supervisor.kill()
        supervisor.join(None)
        supervisor.join_threads()


__all__ = ["AsyncResult", "Results", "TaskPool", "Window"]
