"""AsyncTaskPool itself; the package's docstring says how it works."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from ..errors import PoolFull, PoolNotRunning, PoolRunning
from ..facade_side import AwaitedBase, fail, succeed
from ..observe.facts import WorkerInfo
from ..options import WorkerOptions, check_names
from ..reports import Health, Statistics
from ..settings import count_or_none
from ..taskpool import AsyncResult, TaskPool, Window
from .looking import Looking
from .slots import Slots
from .streams import Stream
from .threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")

_NO_OPTIONS: dict[str, Any] = {}


class AsyncTaskPool(AwaitedBase):
    """A :class:`TaskPool` whose results are awaited.

    ::

        async with AsyncTaskPool(limit=64, processes=4) as pool:
            value = await pool.submit(function, 1, 2)
            async for value in pool.imap_unordered(function, values):
                ...

    :param limit: most tasks in flight before :meth:`submit` waits; None: no limit.
    :param kill_on_cancel: what cancelling the awaiting task means for one that a
        worker runs already: True: it is killed, as by ``AsyncResult.terminate``;
        False: it goes on, its result is dropped. One that has not started is taken
        back in any case.
    :param processes, logger: as :class:`TaskPool`'s.
    :param options: :class:`PoolOptions`, but for `callbacks_in`: the event loop's thread runs
        them.

    It belongs to the event loop that runs :meth:`start` (or ``async with``), and is
    used from that loop's thread alone; from elsewhere its methods raise
    RuntimeError. After its end it may be started again, by another loop as well.
    """

    def __init__(
        self,
        limit: int | None,
        *,
        processes: int | None = None,
        logger: logging.Logger | None = None,
        kill_on_cancel: bool = True,
        **options: Unpack[WorkerOptions],
    ) -> None:
        check_names(options, WorkerOptions.__optional_keys__, type(self))
        self._kill_on_cancel = kill_on_cancel
        self._pool = TaskPool(
            limit, None, logger, processes=processes, callbacks_in="caller", **options
        )
        self._apply = self._pool.apply_async
        self._side = self._pool._loop_side()
        self._slots = Slots(limit)
        self._looking = Looking(self._slots.after_reap)
        self._loop = None
        self._starting = False

    # ---- life ----

    async def start(self) -> None:
        """Starts the workers; returns when each has finished its initializer.

        Under ``fork`` the template is forked in the loop's own thread, which takes
        as long as a fork of this program takes; all else is waited for elsewhere,
        and the loop goes on. If cancelled, waits for the workers and ends them.

        :raises PoolRunning: it runs already (or has not ended yet).
        :raises StartError: not ready within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised. No process is left then.
        """
        loop = asyncio.get_running_loop()
        if self._starting:
            raise PoolRunning("the pool is being started")
        pool = self._pool
        pool._check_ended()
        self._looking.end()
        self._loop = None  # what was its loop has no part in the new start, should it fail
        self._starting = True
        try:
            if pool._start_method == "fork":
                # a thread that forks leaves the child with what others have locked
                supervisor = pool._begin_start()
                await in_thread(pool._finish_start, supervisor, hurry=pool._begin_kill)
            else:
                await in_thread(pool.run, hurry=pool._begin_kill)
        except asyncio.CancelledError:
            await in_thread(pool.terminate)
            raise
        finally:
            self._starting = False
            self._side = pool._loop_side()
        self._loop = loop
        self._slots.begin(self._side)
        self._looking.begin(loop, self._side, pool.fileno())

    def close(self) -> None:
        """No new tasks; those in flight go on, those that wait for a slot fail with
        PoolClosed. Idempotent."""
        self._check_loop()
        self._pool.close()
        self._slots.grant()

    async def join(self, timeout: float | None = None) -> bool:
        """Waits until all tasks have ended and all workers are gone.

        :param timeout: seconds at most; None: without limit.
        :returns: whether that is so.
        :raises ValueError: the pool was neither closed nor terminated.
        """
        if self._loop is None:
            return True
        self._check_loop()
        side = self._side
        if side.running:
            raise ValueError("join() needs close() or terminate() first")
        deadline = None if timeout is None else time.monotonic() + timeout
        if side.pending:  # in the loop: it runs the callbacks
            try:
                async with asyncio.timeout(timeout):
                    await self._slots.drained()
            except TimeoutError:
                return False
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not await in_thread(self._pool.join, left, abandon=True):
            return False
        self._looking.unwatch()
        return True

    async def terminate(self) -> None:
        """Kills the workers; what was in flight fails with PoolTerminated. Idempotent,
        and bounded in time; cancelling it does not shorten it."""
        if self._loop is None:
            return
        self._check_loop()
        self._pool._begin_kill()
        self._slots.grant()
        try:
            await in_thread(self._pool._join_workers)
        finally:
            # at once now; in this thread, since it runs the callbacks
            self._pool.terminate()
            self._slots.after_reap()
            self._looking.unwatch()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            await self.terminate()
            return
        self.close()
        try:
            await self.join()
        except BaseException:
            await self.terminate()
            raise

    def __del__(self) -> None:
        # the pool itself warns, and ends its workers
        looking = getattr(self, "_looking", None)
        if looking is not None and looking.fd >= 0:
            looking.unwatch()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool!r}>"

    # ---- tasks ----

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """``await pool.submit(fn, *args, **kwargs)`` runs ``fn(*args, **kwargs)`` in a
        worker and returns its result, or raises what it raised.

        If the pool is full, waits for a slot, first come first served. If the
        awaiting task is cancelled (by ``asyncio.timeout`` as well), so is the pool's:
        see ``kill_on_cancel``.

        :raises WorkerLostError, TimeLimitExceeded, ...: as an AsyncResult's ``get``.
        :raises PoolNotRunning, PoolClosed, PoolTerminated, CrashLoopError: the pool
            takes no tasks.
        :raises PayloadTooLarge: the arguments alone take more than ``max_bytes``.
        :raises RuntimeError: called outside of the pool's event loop.
        """
        return self._run(fn, args, kwargs, _NO_OPTIONS)

    def apply(
        self,
        fn: Callable[..., T],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        expires: float | datetime.datetime | None = None,
    ) -> Coroutine[Any, Any, T]:
        """As :meth:`submit`, with limits for this task.

        :param soft_timeout: seconds after its start when SoftTimeLimitExceeded is
            raised inside the task.
        :param timeout: seconds after its start when it is killed; it fails with
            TimeLimitExceeded.
        :param expires: seconds from its submission (when it has a slot), or a
            datetime; if it has not started by then, it fails with TaskExpired.
        """
        return self._run(fn, args, kwargs, _options(soft_timeout, timeout, expires))

    def imap_unordered(
        self,
        fn: Callable[[Any], T],
        iterable: Iterable[Any] | AsyncIterable[Any],
        *,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        expires: float | datetime.datetime | None = None,
    ) -> AsyncGenerator[T, None]:
        """``async for value in pool.imap_unordered(fn, iterable)``: the results of
        ``fn(item)``, each as soon as it is there.

        The iterable is consumed as results are taken: at most `buffersize` tasks are
        in flight or wait to be taken. A plain iterable's ``next`` runs in the loop's
        thread; an asynchronous one is iterated by a task of its own, one item ahead.

        :param buffersize: default: the pool's limit, or twice its processes.
        :param return_exceptions: yield the exceptions of tasks that fail. Otherwise
            the first one is raised, and the rest are cancelled.
        :param soft_timeout, timeout, expires: of each task, as in :meth:`apply`.

        Its ``aclose()`` cancels the rest. After a ``break`` the event loop does that
        when the generator is collected; ``contextlib.aclosing`` does it at once.
        """
        options = _options(soft_timeout, timeout, expires)
        window = self._window(buffersize, ordered=False)
        return self._stream(fn, _iterating(iterable), window, return_exceptions, options)

    def imap(
        self,
        fn: Callable[[Any], T],
        iterable: Iterable[Any] | AsyncIterable[Any],
        *,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        expires: float | datetime.datetime | None = None,
    ) -> AsyncGenerator[T, None]:
        """As :meth:`imap_unordered`, with the results in the order of the iterable: one that
        is late holds back those behind it, of which there are at most `buffersize`.
        """
        options = _options(soft_timeout, timeout, expires)
        window = self._window(buffersize, ordered=True)
        return self._stream(fn, _iterating(iterable), window, return_exceptions, options)

    def _window(self, buffersize: int | None, ordered: bool) -> Window:
        size = count_or_none("buffersize", buffersize)
        return Window(size or self._pool.limit or 2 * self._pool.processes, ordered)

    @property
    def limit(self) -> int | None:
        """Most tasks in flight; None: no limit. May be set at any time."""
        return self._pool.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._pool.limit = limit
        self._slots.set_limit(limit)
        if self._loop is not None:
            self._check_loop()
            self._slots.grant()

    def full(self) -> bool:
        """True if the number in flight has reached the limit; constant time."""
        return self._pool.full()

    def grow(self, n: int = 1) -> None:
        """Keeps `n` workers more. ValueError if the limit is too low for them."""
        self._pool.grow(n)

    def shrink(self, n: int = 1) -> None:
        """Lets `n` workers go, as :meth:`TaskPool.shrink`."""
        self._pool.shrink(n)

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers."""
        return self._pool.get_worker_pids()

    def workers(self) -> list[WorkerInfo]:
        """Each worker at this moment, as :meth:`TaskPool.workers` tells it."""
        return self._pool.workers()

    def healthy(self) -> Health:
        """Whether the pool does what it is for, and why not: see :meth:`TaskPool.healthy`."""
        return self._pool.healthy()

    def statistics(self, *, functions: bool = False) -> Statistics:
        """A snapshot of the pool's counters since :meth:`start`, as :meth:`TaskPool.statistics`."""
        return self._pool.statistics(functions=functions)

    # ---- one task ----

    async def _run(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> Any:
        job = None if options else self._submit_now(fn, args, kwargs)
        if job is None:
            job = await self._submit_in_turn(fn, args, kwargs, options)
        try:
            return await job.meta
        except (asyncio.CancelledError, GeneratorExit):
            future = job.meta
            if not future.get_loop().is_closed():
                future.cancel()  # else its loop would complain that nobody takes the error
            self._abandon(job)
            raise

    async def _submit_in_turn(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> AsyncResult[Any]:
        """As _submit_now(), behind those who wait for a slot."""
        future: asyncio.Future[Any] = self._check_loop().create_future()
        if self._slots.all_taken():
            await self._slots.wait()
        while True:
            try:
                return self._place(fn, args, kwargs, succeed, fail, future, options)
            except PoolFull:  # max_bytes
                await self._slots.wait_in_front()

    async def _stream(
        self,
        fn: Callable[[Any], Any],
        iterable: Any,
        window: Window,
        return_exceptions: bool,
        options: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        loop = self._check_loop()
        stream = Stream(loop, iterable, window)
        slots = self._slots
        in_front = False  # it has waited for its turn
        try:
            while True:
                while window.room and stream.source.ready():
                    if not in_front and slots.all_taken():
                        if len(window):
                            break
                        await slots.wait()
                    key = window.put()
                    item = stream.source.item
                    try:
                        job = self._place(
                            fn, (item,), None, stream.succeed, stream.fail, key, options
                        )
                    except PoolFull:
                        window.withdraw()
                        if len(window):
                            break
                        await slots.wait_in_front()
                        in_front = True
                        continue
                    in_front = False
                    stream.source.take()
                    if not job.ready():
                        stream.jobs[key] = job
                if window.ready:
                    success, value = window.take()
                    if success or return_exceptions:
                        yield value
                        continue
                    try:
                        raise value
                    finally:
                        del value  # its traceback holds this frame
                if not len(window) and stream.source.exhausted:
                    return
                await stream.change()
        finally:
            stream.close()
            for job in list(stream.jobs.values()):
                self._abandon(job)

    def _place(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        succeed: Callable[[Any, Any], None],
        fail: Callable[[Any, Any], None],
        meta: Any,
        options: dict[str, Any],
    ) -> AsyncResult[Any]:
        if not self._looking.awake:
            self._looking.wake()
        return self._apply(fn, args, kwargs, succeed, fail, None, meta, block=False, **options)

    def _abandon(self, job: AsyncResult[Any]) -> None:
        """Nobody waits for it any more."""
        if not job.cancel() and self._kill_on_cancel:
            job.terminate()

    # ---- the loop ----

    def _check_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        running = asyncio.get_running_loop()
        if running is not loop:
            if loop is None:
                raise PoolNotRunning("the pool is not running: use `async with`, or await start()")
            raise RuntimeError(f"{self!r} belongs to another event loop")
        return running


def _iterating(iterable: Iterable[Any] | AsyncIterable[Any]) -> Any:
    """TypeError at the call if it is neither."""
    return iterable if isinstance(iterable, AsyncIterable) else iter(iterable)


def _options(
    soft_timeout: float | None,
    timeout: float | None,
    expires: float | datetime.datetime | None,
) -> dict[str, Any]:
    if soft_timeout is None and timeout is None and expires is None:
        return _NO_OPTIONS
    return {"soft_timeout": soft_timeout, "timeout": timeout, "expires": expires}
