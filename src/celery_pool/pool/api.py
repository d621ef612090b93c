"""Pool: :class:`multiprocessing.Pool`'s interface on the compiled core."""

from __future__ import annotations

import multiprocessing.pool
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import util
from multiprocessing.context import BaseContext
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack

from ..errors import PoolClosed, PoolNotRunning, PoolTerminated, WrongCall
from ..feeding.chunks import default_size
from ..host.cpus import usable_cpus
from ..options import SharedOptions, check_names
from ..settings import count, count_or_none
from ..taskpool import AsyncResult, TaskPool, Window
from ..wire.remote import of_arguments
from .imap import Feed, IMapIterator, IMapUnorderedIterator
from .intake import Intake
from .mapresult import CALLBACK, ERROR_CALLBACK, MapResult, OneArgument

if TYPE_CHECKING:
    import logging

    from ..observe.facts import WorkerInfo
    from ..reports import Health, Statistics

S = TypeVar("S")
T = TypeVar("T")
Iterate = TypeVar("Iterate", bound=IMapIterator[Any])
ErrorCallback = Callable[[BaseException], object] | None


class Pool(multiprocessing.pool.Pool):
    """A drop-in for :class:`multiprocessing.Pool`; docs/compatibility.md says what differs.

    It passes for a :class:`multiprocessing.pool.Pool` with ``isinstance`` and type checkers, and
    inherits nothing of it.

    :param processes: worker processes; default: the CPUs usable by this process
        (affinity and cgroup quota).
    :param initializer: called as ``initializer(*initargs)`` in each worker before its
        first task. What it raises is raised here.
    :param maxtasksperchild: tasks after which a worker is replaced; a chunk of a map
        is one task. None: never.
    :param context: a multiprocessing context or a start method's name; default:
        multiprocessing's own default.
    :param limit: most tasks in flight, a chunk of a map being one, before a call waits; None:
        no limit.
    :param logger: as :class:`TaskPool`'s.
    :param options: :class:`PoolOptions`, but for `callbacks_in`, and with SIGINT alone for
        `shield`.

    Callbacks run one after the other in a background thread; one that raises is
    logged, to the logger ``celery_pool``, and the pool goes on. A task whose worker
    dies fails with WorkerLostError, and no other one does.

    Thread-safe; callbacks may call the pool. A forked child cannot use it
    (:exc:`WrongProcess`). Leaving a ``with`` block terminates the pool.
    """

    _state: str = INIT  # also if __init__ raises

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        limit: int | None = None,
        logger: logging.Logger | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        check_names(options, SharedOptions.__optional_keys__, type(self))
        options.setdefault("shield", (signal.SIGINT,))  # as in a standard pool, but for Ctrl-C
        if processes is None:
            processes = usable_cpus(limit)
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild < 1
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        self._processes = processes
        self._recycled = maxtasksperchild is not None
        self._pid = os.getpid()
        self._tasks = _QuietPool(
            limit,
            None,
            logger,
            processes=processes,
            initializer=initializer,
            initargs=initargs,
            maxtasksperchild=maxtasksperchild,
            context=context,
            callbacks_in="reaper",
            **options,
        )
        self._intake = Intake(self._tasks)
        self._tasks.run()
        self._state = RUN

    # ---- one call ----

    def apply(
        self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> T:
        """``func(*args, **kwds)`` in a worker: its result, or what it raises."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> AsyncResult[T]:
        """Runs ``func(*args, **kwds)`` in a worker.

        :param callback: ``callback(result)``, in the background thread.
        :param error_callback: ``error_callback(exception)``, there too.
        :returns: its AsyncResult. What pickling the arguments raises, ``get()`` raises.
        :raises ValueError: the pool was closed or terminated.
        :raises TypeError: `args` is no iterable, or a string or a dict, `kwds` no mapping, or
            a callback cannot be called with one argument.
        """
        if self._state != RUN:
            self._refuse()
        on_success = None if callback is None else OneArgument(callback, CALLBACK)
        on_error = None if error_callback is None else OneArgument(error_callback, ERROR_CALLBACK)
        try:
            try:
                return self._tasks.apply_async(func, args, kwds, on_success, on_error)
            except WrongCall:
                raise
            except BaseException as error:
                if not of_arguments(error):
                    raise
                return self._tasks._submit_failed(error, on_success, on_error)
        except (PoolClosed, PoolTerminated) as error:  # meanwhile
            self._refuse(error)

    # ---- many calls ----

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """``[func(x) for x in iterable]``, `chunksize` calls a task (default: about four
        tasks a worker, but at most 2,048 calls)."""
        return self._map(func, iterable, chunksize, False).get()

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> MapResult[T]:
        """As :meth:`map`, but returns once all is submitted. The callbacks as with
        :meth:`apply_async`, for the whole list."""
        return self._map(func, iterable, chunksize, False, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """``[func(*x) for x in iterable]``; see :meth:`map`."""
        return self._map(func, iterable, chunksize, True).get()

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> MapResult[T]:
        """As :meth:`starmap`, but returns once all is submitted; see :meth:`map_async`."""
        return self._map(func, iterable, chunksize, True, callback, error_callback)

    def _map(
        self,
        func: Callable[..., T],
        iterable: Iterable[S],
        chunksize: int | None,
        star: bool,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: ErrorCallback = None,
    ) -> MapResult[T]:
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            size = default_size(
                len(iterable),  # type: ignore[arg-type]
                self._processes,
                self._recycled,
            )
        else:
            size = count("chunksize", chunksize)
        result = MapResult(self._tasks, size > 1, callback, error_callback)
        self._intake.enter()
        try:
            result.submit(func, iterable, size, star)
        except (PoolClosed, PoolTerminated) as error:  # meanwhile
            self._refuse(error)
        finally:
            self._intake.leave()
        return result

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> IMapIterator[T]:
        """An iterator over ``func(x) for x in iterable``, in that order.

        :param chunksize: calls a task; None: 1.
        :param buffersize: most tasks that are submitted and whose results have not been
            taken; the input is iterated no further than that. None: no bound, the input
            is iterated to its end at once.

        A background thread iterates the input. The iterator's ``next(timeout)`` raises
        multiprocessing.TimeoutError.
        """
        return self._imap(IMapIterator, func, iterable, chunksize, buffersize)

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> IMapUnorderedIterator[T]:
        """As :meth:`imap`, with the results as they come."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize, buffersize)

    def _imap(
        self,
        kind: type[Iterate],
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
    ) -> Iterate:
        self._check_running()
        size = 1 if chunksize is None else count("chunksize", chunksize)
        window = Window(
            count_or_none("buffersize", buffersize), ordered=kind is not IMapUnorderedIterator
        )
        results = kind(self._tasks, window, chunked=size > 1)
        feed = Feed(self._tasks, window, func, iterable, size, self._intake.left)
        if window.size is not None:
            results.feed = feed
        self._intake.enter(feed)
        feed.start()
        return results

    # ---- what is going on ----

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers, as :meth:`TaskPool.get_worker_pids` tells them."""
        return self._tasks.get_worker_pids()

    def workers(self) -> list[WorkerInfo]:
        """Each worker at this moment, as :meth:`TaskPool.workers` tells it."""
        return self._tasks.workers()

    def healthy(self) -> Health:
        """Whether the pool does what it is for, and why not: see :meth:`TaskPool.healthy`."""
        return self._tasks.healthy()

    def statistics(self, *, functions: bool = False) -> Statistics:
        """A snapshot of the pool's counters, as :meth:`TaskPool.statistics`; a chunk of a map
        is one task."""
        return self._tasks.statistics(functions=functions)

    # ---- life ----

    def close(self) -> None:
        """No new calls; what was asked for goes on, also the input of an imap."""
        if self._state == RUN:
            self._tasks._check_process()
            self._intake.close()  # first: who sees the state may join()
            self._state = CLOSE

    def terminate(self) -> None:
        """Kills the workers. What was in flight fails with PoolTerminated, and its
        error callbacks run. Bounded in time; from any thread, any callback and any
        signal handler."""
        self._tasks._check_process()
        self._state = TERMINATE
        self._tasks.terminate()
        self._intake.stop()

    def join(self) -> None:
        """Waits until all tasks have ended and the workers are gone.

        An imap with a `buffersize` from which this very thread takes the results would
        never have room again: its input is iterated no further, and its iterator raises
        ValueError after the results that were submitted.

        :raises ValueError: neither close() nor terminate() was called.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state == CLOSE:
            self._intake.join()
        self._tasks.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.getpid() == self._pid:  # a forked child leaves: the pool is its parent's
            self.terminate()

    def __del__(self) -> None:
        if self._state == RUN and os.getpid() == self._pid and not util.is_exiting():
            # the text that filters of multiprocessing's users know
            warnings.warn(
                f"unclosed running multiprocessing pool {self!r}",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"
        )

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("a pool cannot be pickled or passed to another process")

    def _check_running(self) -> None:
        if self._state != RUN:
            self._refuse()
        self._tasks._check_process()

    def _refuse(self, cause: BaseException | None = None) -> NoReturn:
        raise PoolNotRunning("Pool not running") from cause


class _Absent:
    """What the standard class has for itself: run here, it would look for what is not there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, pool: Pool | None, kind: type[Pool]) -> NoReturn:
        raise AttributeError(f"{kind.__name__!r} object has no attribute {self._name!r}")


for _name, _member in vars(multiprocessing.pool.Pool).items():
    if callable(_member) and _name not in vars(Pool):
        setattr(Pool, _name, _Absent(_name))


class _QuietPool(TaskPool):
    """A TaskPool without the ResourceWarning: Pool gives its own."""

    def __del__(self) -> None:
        pass
