"""AsyncTaskPool itself; the package's docstring says how it works."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ..errors import PoolFull, PoolNotRunning, PoolRunning
from ..reports import Statistics
from ..taskpool import AsyncResult, TaskPool
from .streams import AsyncSource, Source, Stream

P = ParamSpec("P")
T = TypeVar("T")

#: Rounds of the loop in which the pool looks in vain before it waits for its descriptor.
LOOKS = 10
#: Seconds; had it slept no longer than this, it should have gone on looking.
SHORT_SLEEP = 100e-6

_NO_OPTIONS: dict[str, Any] = {}


class AsyncTaskPool:
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
    :param options: those of :class:`TaskPool`, but for ``callbacks_in`` and
        ``reap_timeout``.

    It belongs to the event loop that runs :meth:`start` (or ``async with``), and is
    used from that loop's thread alone; from elsewhere its methods raise
    RuntimeError. After its end it may be started again, by another loop as well.
    """

    _fd = -1  # watched by the loop

    def __init__(self, limit: int | None, *, kill_on_cancel: bool = True, **options: Any) -> None:
        for name in ("callbacks_in", "reap_timeout"):
            if name in options:
                raise TypeError(f"{name} is not for AsyncTaskPool: the event loop decides it")
        self._kill_on_cancel = kill_on_cancel
        self._pool = TaskPool(limit, callbacks_in="caller", **options)
        self._apply = self._pool.apply_async
        self._side = self._pool._loop_side()
        self._limit = _limit_of(limit)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = False
        self._submitters: deque[asyncio.Future[None]] = deque()  # they wait for a slot
        self._granted = 0  # slots given to submitters that have not taken them yet
        self._full_at = -1  # `reaped` when arguments found no room; -1: none wait for that
        self._drained: list[asyncio.Future[None]] = []  # they wait until nothing is pending
        self._awake = False  # looks by itself
        self._looks = 0  # in vain, since it woke
        self._most_looks = LOOKS
        self._asleep_since = 0.0

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
        self._unwatch()
        self._loop = None  # what was its loop has no part in the new start, should it fail
        self._starting = True
        try:
            if pool._start_method == "fork":
                # a thread that forks leaves the child with what others have locked
                supervisor = pool._begin_start()
                await _in_thread(pool._finish_start, supervisor)
            else:
                await _in_thread(pool.run)
        except asyncio.CancelledError:
            await _in_thread(pool.terminate)
            raise
        finally:
            self._starting = False
            self._side = pool._loop_side()
        self._loop = loop
        self._granted = 0
        self._full_at = -1
        self._awake = False
        self._fd = pool.fileno()
        loop.add_reader(self._fd, _on_readable, weakref.ref(self))

    def close(self) -> None:
        """No new tasks; those in flight go on, those that wait for a slot fail with
        PoolClosed. Idempotent."""
        self._check_loop()
        self._pool.close()
        self._grant()

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
            drained = self._loop.create_future()
            self._drained.append(drained)
            try:
                async with asyncio.timeout(timeout):
                    await drained
            except TimeoutError:
                return False
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not await _in_thread(self._pool.join, left, abandon=True):
            return False
        self._unwatch()
        return True

    async def terminate(self) -> None:
        """Kills the workers; what was in flight fails with PoolTerminated. Idempotent,
        and bounded in time; cancelling it does not shorten it."""
        if self._loop is None:
            return
        self._check_loop()
        self._pool._begin_kill()
        self._grant()
        try:
            await _in_thread(self._pool._join_workers)
        finally:
            # at once now; in this thread, since it runs the callbacks
            self._pool.terminate()
            self._after_reap()
            self._unwatch()

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
        if self._fd >= 0:
            self._unwatch()

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
        if buffersize is None:
            buffersize = self._pool.limit or 2 * self._pool.processes
        elif buffersize < 1:
            raise ValueError(f"buffersize must be at least 1, not {buffersize}")
        if not isinstance(iterable, AsyncIterable):
            iterable = iter(iterable)
        return self._stream(
            fn, iterable, buffersize, return_exceptions, _options(soft_timeout, timeout, expires)
        )

    @property
    def limit(self) -> int | None:
        """Most tasks in flight; None: no limit. May be set at any time."""
        return self._pool.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._pool.limit = limit
        self._limit = _limit_of(limit)
        if self._loop is not None:
            self._check_loop()
            self._full_at = -1
            self._grant()

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

    def statistics(self) -> Statistics:
        """A snapshot of the pool's counters since :meth:`start`."""
        return self._pool.statistics()

    # ---- one task ----

    async def _run(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> Any:
        future: asyncio.Future[Any] = self._check_loop().create_future()
        if self._submitters or self._side.in_flight + self._granted >= self._limit:
            await self._slot()
        while True:
            try:
                job = self._place(fn, args, kwargs, _succeed, _fail, future, options)
                break
            except PoolFull:  # max_bytes
                await self._slot_in_front()
        try:
            return await future
        except (asyncio.CancelledError, GeneratorExit):
            if not future.get_loop().is_closed():
                future.cancel()  # else its loop would complain that nobody takes the error
            self._abandon(job)
            raise

    def _place(
        self,
        fn: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
        succeed: Callable[[Any, Any], None],
        fail: Callable[[Any, Any], None],
        meta: Any,
        options: dict[str, Any],
    ) -> AsyncResult:
        if not self._awake:
            self._wake()
        return self._apply(fn, args, kwargs, succeed, fail, None, meta, block=False, **options)

    def _abandon(self, job: AsyncResult) -> None:
        """Nobody waits for it any more."""
        if not job.cancel() and self._kill_on_cancel:
            job.terminate()

    # ---- slots ----

    async def _slot(self) -> None:
        """Waits for a slot; the caller takes it at once."""
        waiter: asyncio.Future[None] = self._check_loop().create_future()
        self._submitters.append(waiter)
        self._grant()  # those in front may all have been cancelled
        await self._granted_to(waiter)

    async def _slot_in_front(self) -> None:
        """Waits until something has ended, in front of all others. From now on one
        after the other tries whether there is room for its arguments."""
        self._full_at = self._side.reaped
        waiter: asyncio.Future[None] = self._check_loop().create_future()
        self._submitters.appendleft(waiter)
        await self._granted_to(waiter)

    async def _granted_to(self, waiter: asyncio.Future[None]) -> None:
        try:
            if not waiter.done():
                await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self._granted -= 1  # just now: for the next one
                self._grant()
            else:
                waiter.cancel()
            raise
        self._granted -= 1

    def _grant(self) -> None:
        """Gives free slots to those who wait; a pool that takes no tasks tells each so."""
        submitters = self._submitters
        while submitters and self._may_grant():
            waiter = submitters.popleft()
            if not waiter.done():
                self._granted += 1
                waiter.set_result(None)
        if not submitters:
            self._full_at = -1

    def _may_grant(self) -> bool:
        side = self._side
        if not side.running:
            return True
        if side.in_flight + self._granted >= self._limit:
            return False
        return self._full_at < 0 or (not self._granted and side.reaped != self._full_at)

    # ---- results ----

    def _wake(self) -> None:
        """From now on it looks by itself."""
        if self._loop is None:  # it is being started again
            return
        self._loop.call_soon(self._look)  # first: a Ctrl-C may come in between
        self._awake = True
        self._looks = 0
        self._side.hush()

    def _on_readable(self) -> None:
        if self._awake:
            self._side.hush()  # rung before it woke
            return
        slept = time.monotonic() - self._asleep_since
        self._most_looks = LOOKS if slept < SHORT_SLEEP else self._most_looks // 2
        self._wake()

    def _look(self) -> None:
        loop, side = self._loop, self._side
        if loop is None:  # it is being started again
            return
        again = False
        try:
            if self._looks:
                os.sched_yield()  # the worker may want for a CPU
            if side.poll():
                self._looks = 0
            else:
                self._looks += 1
            self._after_reap()
            again = side.pending > 0 and self._looks <= self._most_looks
        finally:  # a KeyboardInterrupt, too: the loop may go on
            if again:
                loop.call_soon(self._look)
            else:
                self._awake = False
                self._asleep_since = time.monotonic()
                side.listen()

    def _after_reap(self) -> None:
        if self._submitters:
            self._grant()
        if self._drained and not self._side.pending:
            for future in self._drained:
                if not future.done():
                    future.set_result(None)
            self._drained.clear()

    # ---- streams ----

    async def _stream(
        self,
        fn: Callable[[Any], Any],
        iterable: Any,
        buffersize: int,
        return_exceptions: bool,
        options: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        loop = self._check_loop()
        stream = Stream()
        source: Source | AsyncSource
        if isinstance(iterable, AsyncIterable):
            source = AsyncSource(loop, iterable, stream)
        else:
            source = Source(iterable)
        jobs = stream.jobs
        key = 0
        in_front = False  # it has waited for its turn
        try:
            while True:
                while len(jobs) + len(stream.done) < buffersize and source.ready():
                    if not in_front and (
                        self._submitters or self._side.in_flight + self._granted >= self._limit
                    ):
                        if jobs or stream.done:
                            break
                        await self._slot()
                    key += 1
                    try:
                        job = self._place(
                            fn, (source.item,), None, stream.succeed, stream.fail, key, options
                        )
                    except PoolFull:
                        if jobs or stream.done:
                            break
                        await self._slot_in_front()
                        in_front = True
                        continue
                    in_front = False
                    source.take()
                    if not job.ready():
                        jobs[key] = job
                if stream.done:
                    success, value = stream.done.popleft()
                    if success or return_exceptions:
                        yield value
                        continue
                    try:
                        raise value
                    finally:
                        del value  # its traceback holds this frame
                if not jobs and source.exhausted:
                    return
                await stream.change(loop)
        finally:
            stream.closed = True
            source.close()
            for job in list(jobs.values()):
                self._abandon(job)

    # ---- the loop ----

    def _check_loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        running = asyncio.get_running_loop()
        if running is not loop:
            if loop is None:
                raise PoolNotRunning("the pool is not running: use `async with`, or await start()")
            raise RuntimeError(f"{self!r} belongs to another event loop")
        return running

    def _unwatch(self) -> None:
        """The loop lets go of the descriptor."""
        fd, self._fd = self._fd, -1
        loop = self._loop
        if fd < 0 or loop is None or loop.is_closed():
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop or not loop.is_running():
            loop.remove_reader(fd)
        else:  # collected in another thread; the core keeps the descriptor until then
            loop.call_soon_threadsafe(_remove_reader, loop, fd, self._side)


def _succeed(value: Any, future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(value)


def _fail(error: BaseException, future: asyncio.Future[Any]) -> None:
    if not future.done():
        if isinstance(error, StopIteration):  # no future takes it
            error = _as_runtime_error(error)
        future.set_exception(error)


def _as_runtime_error(cause: StopIteration) -> RuntimeError:
    error = RuntimeError("the task raised StopIteration")
    error.__cause__ = cause
    return error


def _on_readable(reference: weakref.ref[AsyncTaskPool]) -> None:
    pool = reference()
    if pool is not None:
        pool._on_readable()


def _remove_reader(loop: asyncio.AbstractEventLoop, fd: int, core: object) -> None:
    loop.remove_reader(fd)


def _limit_of(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit


def _options(
    soft_timeout: float | None,
    timeout: float | None,
    expires: float | datetime.datetime | None,
) -> dict[str, Any]:
    if soft_timeout is None and timeout is None and expires is None:
        return _NO_OPTIONS
    return {"soft_timeout": soft_timeout, "timeout": timeout, "expires": expires}


async def _in_thread(function: Callable[..., T], *args: Any, abandon: bool = False) -> T:
    """Calls it in a thread of its own: the loop's default executor may be busy.

    Cancelled, it waits for the end nevertheless, unless `abandon`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            result = function(*args)
        except BaseException as error:
            tell(_fail, error)
        else:
            tell(_succeed, result)

    def tell(how: Callable[[Any, asyncio.Future[T]], None], outcome: Any) -> None:
        try:
            loop.call_soon_threadsafe(how, outcome, future)
        except RuntimeError:  # the loop was closed meanwhile
            if not loop.is_closed():
                raise

    threading.Thread(
        target=body, name=f"AsyncTaskPool-{function.__name__.strip('_')}", daemon=True
    ).start()
    if abandon:
        return await future
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # it is nobody's now
        raise cancelled
    return future.result()
