"""TaskPoolExecutor: :class:`concurrent.futures.Executor` over :class:`TaskPool`.

The parts: a future follows the job of its task and is settled by who looks at it.
`Life` is what of an executor outlives it. `map` makes no futures.
"""

from __future__ import annotations

import functools
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

from ..errors import (
    CrashLoopError,
    PoolClosed,
    PoolNotRunning,
    PoolTerminated,
    StartError,
    WrongProcess,
)
from ..feeding.chunks import AT_ONCE, chunks
from ..host.cpus import usable_cpus
from ..options import SharedOptions, check_names
from ..settings import count
from ..taskpool import AsyncResult, TaskPool, Window
from ..wire.remote import of_arguments, without_frames
from .futures import TaskFuture
from .life import Life
from .mapresults import FedMapResults, MapResults

if TYPE_CHECKING:
    from ..observe.facts import WorkerInfo
    from ..reports import Health, Statistics

P = ParamSpec("P")
T = TypeVar("T")

#: What submissions raise when the pool takes no more.
_NO_MORE = (PoolClosed, PoolTerminated, PoolNotRunning, CrashLoopError, StartError)

#: Seconds that an initializer may take; concurrent.futures knows no limit.
START_TIMEOUT = 3600.0


class TaskPoolExecutor(Executor):
    """A :class:`concurrent.futures.Executor` whose tasks run in worker processes.

    Use it where a :class:`~concurrent.futures.ProcessPoolExecutor` would do. A worker
    that dies costs the task it was running, whose future fails with
    WorkerLostError; the others don't notice.

    :param max_workers: worker processes; default: the CPUs usable by this process.
        All of them are started by the first submission, which does not wait for
        them.
    :param mp_context: a multiprocessing context or a start method's name; default:
        multiprocessing's own default.
    :param initializer: called as ``initializer(*initargs)`` in each worker before its
        first task. If it raises in one of the first workers, the executor is broken; in a
        later one it is tried again, and tasks wait.
    :param max_tasks_per_child: tasks after which a worker is replaced; None: never.
        Under every start method.
    :param lost_breaks_pool: a worker that dies unasked breaks the executor, as with
        ProcessPoolExecutor: all that is in flight and later submissions fail with
        BrokenProcessPool.
    :param limit: most tasks in flight before :meth:`submit` waits; None: it never
        does.
    :param logger: as :class:`TaskPool`'s.
    :param options: :class:`PoolOptions`, but for `callbacks_in`, and with SIGINT alone for
        `shield` and an hour for `start_timeout`.

    Who waits for a future, by its methods or those of :mod:`concurrent.futures`, collects
    results meanwhile; results are unpickled by the thread that looks at them first, or
    that tells those who wait.

    Done callbacks run in a background thread of this process, one after the other;
    those of a future that is cancelled, in the thread that cancels it. They may
    submit, and may call :meth:`shutdown`, which does not wait there.

    An executor that is dropped without :meth:`shutdown` finishes what was submitted,
    and so does the interpreter before it exits.

    Thread-safe. A forked child cannot use it (:exc:`WrongProcess`), but may leave a
    ``with`` block of it.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        lost_breaks_pool: bool = False,
        limit: int | None = None,
        logger: logging.Logger | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        check_names(options, SharedOptions.__optional_keys__, type(self))
        options.setdefault("shield", (signal.SIGINT,))  # as in a standard one, but for Ctrl-C
        options.setdefault("start_timeout", START_TIMEOUT)
        if max_workers is None:
            max_workers = usable_cpus(limit)
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        pool = (_BreakingPool if lost_breaks_pool else TaskPool)(
            limit,
            None,
            logger,
            processes=max_workers,
            context=mp_context,
            initializer=None if initializer is None else _initialize,
            initargs=(initializer, tuple(initargs)),
            maxtasksperchild=max_tasks_per_child,
            callbacks_in="reaper",  # the user may hold locks while submitting
            **options,
        )
        self._max_workers = pool.processes
        self._mp_context = pool._context
        self._life = Life(pool, lost_breaks_pool)
        self._submit: Callable[..., TaskFuture[Any]] | None = None  # once it has started

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs ``fn(*args, **kwargs)`` in a worker; returns a :class:`TaskFuture`.

        Does not wait, but for a slot if the executor has a ``limit`` or
        ``max_bytes``. What pickling the arguments raises, the future raises.

        :raises BrokenProcessPool: the workers could not be started, or keep dying.
        :raises RuntimeError: after :meth:`shutdown`.
        :raises WrongProcess: in a forked child.
        """
        submit = self._submit
        if submit is None:
            submit = self._submit = self._life.begin()
        try:
            return submit(TaskFuture, self._life, fn, args, kwargs or None)
        except _NO_MORE as error:
            raise self._life.refusal() from error
        except WrongProcess:
            raise
        except BaseException as error:
            if not of_arguments(error):
                raise
            future: TaskFuture[T] = TaskFuture.__new__(TaskFuture)
            future.set_exception(without_frames(error))
            return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As ``map(fn, *iterables)``, in the workers; results come in order.

        :param timeout: seconds from now within which each result has to be asked for
            and there; None: no limit.
        :param chunksize: calls to send as one task.
        :param buffersize: most tasks submitted and not yielded yet; the iterables
            are read as results are taken. None: everything is submitted at once.
        :raises TimeoutError: by the iterator, past the timeout.
        :raises Exception: by the iterator, what the call raised, in the place of its
            result: what comes next is the next call's. Where a whole chunk is lost (with its
            worker, by a time limit, by what is no Exception) it is raised once for all.

        Past the timeout, when the input raises, and when the iterator is closed or
        dropped, tasks that have not started are cancelled.
        """
        chunksize = count("chunksize", chunksize)
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls: Iterator[Any] = zip(*iterables, strict=False)
        if self._submit is None:
            calls = self._begun_at_first(calls)
        life, window, chunked = self._life, Window(buffersize), chunksize > 1
        feed = functools.partial(self._feed, window, fn, chunks(calls, chunksize), chunked)
        results: MapResults[T]
        if buffersize is None and timeout is None:
            results = MapResults(life.pool, window, chunked=chunked, owner=life)
        else:
            results = FedMapResults(life, window, chunked, feed, deadline)
        try:
            feed()  # at once
        except BaseException:
            results.close()
            raise
        return results

    def _begun_at_first(self, calls: Iterator[T]) -> Iterator[T]:
        """Starts the workers at the first item."""
        for call in calls:
            if self._submit is None:
                self._submit = self._life.begin()
            yield call

    def _feed(
        self, window: Window, fn: Callable[..., Any], items: Iterator[Any], chunked: bool
    ) -> None:
        """Submits as many as there is room for."""
        pool = self._life.pool
        try:
            while window.room:
                if not pool._feed(
                    window, fn, items, chunked=chunked, star=True, each=True, most=AT_ONCE
                ):
                    pool._end_feed(window)
                    return
        except _NO_MORE as error:
            raise self._life.refusal() from error

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No new tasks; what was submitted goes on. Idempotent.

        :param wait: return when all of it is done and the workers are gone; not in
            a done callback that the background thread runs.
        :param cancel_futures: cancel what has not started.
        """
        life = self._life
        if not life.in_own_process():
            return
        life.shut()
        if cancel_futures:
            life.cancel_pending()
        if wait:
            life.wait()

    def kill(self, future: Future[Any]) -> bool:
        """Ends the running task of `future`, and no other: its worker gets SIGTERM
        and, if that has not helped within a second, SIGKILL; another worker takes its
        place. The future fails with TaskTerminated.

        :returns: False if the task is not running: it waits (see ``cancel()``) or has
            ended.
        """
        if not isinstance(future, TaskFuture):
            raise TypeError("not a future of a TaskPoolExecutor")
        job: AsyncResult[Any] | None = future._job
        if job is None or job.worker_pid is None:
            return False
        return job.terminate()

    def terminate_workers(self) -> None:
        """Shuts down and ends the tasks that run, by SIGTERM and after a second by
        SIGKILL; does not wait for that. They fail with BrokenProcessPool, what has
        not started is cancelled."""
        self._force("terminated")

    def kill_workers(self) -> None:
        """As :meth:`terminate_workers`, with SIGKILL at once; the workers are gone
        when it returns."""
        self._force("killed")
        if self._life.in_own_process():
            self._life.pool.terminate()

    def _force(self, what: str) -> None:
        life = self._life
        if life.in_own_process():
            life.shut()
            life.broken = life.broken or f"the workers were {what}"
            life.cancel_pending()
            life.ended_by_force()
            if what == "terminated":
                for job in life.pool._pending_jobs():
                    job.terminate(signal.SIGTERM)

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers; none before the first submission."""
        return self._life.pool.get_worker_pids()

    def workers(self) -> list[WorkerInfo]:
        """Each worker at this moment, as :meth:`TaskPool.workers` tells it."""
        return self._life.pool.workers()

    def healthy(self) -> Health:
        """Whether the pool does what it is for, and why not: see :meth:`TaskPool.healthy`."""
        return self._life.pool.healthy()

    def statistics(self, *, functions: bool = False) -> Statistics:
        """A snapshot of the pool's counters, as :meth:`TaskPool.statistics`; a chunk of a map
        is one task."""
        return self._life.pool.statistics(functions=functions)

    @property
    def _broken(self) -> str | None:
        """Why it takes no more tasks, if that is not shutdown()."""
        return self._life.why_broken()

    def __repr__(self) -> str:
        described = self._life.pool._describe(f"max_workers={self._max_workers}")
        return f"<{type(self).__name__} {described}>"

    def __del__(self) -> None:
        life = getattr(self, "_life", None)
        if life is not None:
            life.told.put(None)  # takes no lock: any thread may be anywhere


class _BreakingPool(TaskPool):
    _lost_breaks_pool = True


def _initialize(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> None:
    """In the worker."""
    try:
        initializer(*initargs)
    except BaseException:
        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        raise
