"""The small interface behind which every pool is measured."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, ClassVar, NamedTuple, Protocol

import psutil

Function = Callable[..., Any]
# Called once a task with what the pool hands to a callback: a value, an exception or a future.
# TaskPool passes a second argument, its `meta`, so callbacks take one with a default.
Callback = Callable[..., None]


class Task(NamedTuple):
    """What is submitted; the same one may be submitted many times."""

    function: Function
    args: tuple[Any, ...]
    callback: Callback
    errback: Callback | None = None  # None: failures are not told


class Waitable(Protocol):
    """An event, or what else can be waited for."""

    def wait(self) -> object:
        """Returns when it has come."""


class AwaitableCall(Protocol):
    """How a program on asyncio calls a function in a worker."""

    def __call__(self, function: Function, /, *args: Any) -> Awaitable[Any]:
        """To be awaited: the value, or raises what the function raised."""


class Bookkeeping(Protocol):
    """The tid queue of a pool whose worker side is driven by hand."""

    def submit(self, callbacks: list[Callback]) -> None:
        """Queues one task; the limit is checked."""

    def finish_all(self) -> None:
        """The workers' side: gives every queued task its result."""

    def full(self) -> bool:
        """Has the number in flight reached the limit?"""

    def reap(self) -> int:
        """Takes the finished tasks out of the queue and runs their callbacks; returns how many."""

    def add(self, result: Any, callbacks: list[Callback]) -> object:
        """Queues the result of another pool."""


class Contender(abc.ABC):
    """One pool. Made, started, used and closed in a process of its own."""

    name: ClassVar[str]
    #: whose version is recorded; None: part of Python or of this suite
    distribution: ClassVar[str | None] = None
    #: what a program says to have it; for `startup`
    imported: ClassVar[str] = ""
    #: names of the workloads it can run; None: all
    only: ClassVar[frozenset[str] | None] = None
    survives_kill: ClassVar[bool] = False  # a worker killed by SIGKILL costs its task only
    recycles: ClassVar[bool] = False  # replaces a worker after so many tasks
    draws: ClassVar[bool] = False  # has imap_unordered

    recycle: int = 0  # tasks after which a worker is replaced; 0: never

    def recycle_after(self, tasks: int) -> None:
        """Before the start, for pools that can."""
        self.recycle = tasks

    @abc.abstractmethod
    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        """Starts the workers.

        `in_flight` is the most tasks that are submitted and not finished; None: unbounded.
        """

    @abc.abstractmethod
    def submit(self, task: Task) -> None:
        """Hands in one task; waits while `in_flight` tasks are unfinished.

        Where the pool has futures the callback gets failures, too.
        """

    def submit_many(self, task: Task, count: int) -> None:
        """Hands in the same task `count` times, as a user of this pool would in a loop."""
        submit = self.submit
        for _ in range(count):
            submit(task)

    def wait_all(self, done: Waitable) -> None:
        """Waits for `done`, which the last callback brings about; overridden where a waiting thread
        helps."""
        done.wait()

    @abc.abstractmethod
    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        """Submits one task and waits for its result."""

    def unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """The function's results for the items, as they come; for pools that draw."""
        raise NotImplementedError(f"{self.name} has no imap_unordered")

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the workers."""

    @contextlib.asynccontextmanager
    async def on_asyncio(
        self, processes: int, in_flight: int, context: str
    ) -> AsyncIterator[AwaitableCall]:
        """Starts it, in a program on asyncio that never awaits more than `in_flight` calls, and
        closes it in the end. By default over callbacks, which come in another thread."""
        loop = asyncio.get_running_loop()

        async def call(function: Function, /, *args: Any) -> Any:
            future = loop.create_future()

            def finished(outcome: Any, meta: Any = None) -> None:
                loop.call_soon_threadsafe(future.set_result, outcome)

            def failed(error: Any, meta: Any = None) -> None:
                loop.call_soon_threadsafe(future.set_exception, error)

            self.submit(Task(function, args, finished, failed))
            return await future

        self.start(processes, None, context)
        try:
            yield call
        finally:
            self.close()

    def facade(
        self, interface: str, processes: int, context: str
    ) -> contextlib.AbstractContextManager[Any]:
        """What a program calls, started and ended by `with`, and apart from `start`. "pool":
        multiprocessing.Pool, or what stands in for it; "executor": an Executor; "joblib": a
        Parallel."""
        raise NotImplementedError(f"{self.name} has no interface {interface!r}")

    def pids(self) -> list[int]:
        """The workers. By default all descendants, which is right for pools that fork."""
        return [process.pid for process in psutil.Process().children(recursive=True)]

    def bookkeeping(self, limit: int) -> Bookkeeping:
        """What the parent does for a task, without processes."""
        raise NotImplementedError(f"{self.name} cannot be measured without its processes")


class Unlimited(Contender):
    """A pool without a limit of its own: a semaphore around it bounds the tasks in flight."""

    _slots: threading.Semaphore | None = None

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._slots = None if in_flight is None else threading.Semaphore(in_flight)
        self._open(processes, context)

    def submit(self, task: Task) -> None:
        if self._slots is None:
            self._send(task)
            return
        function, args, callback, errback = task
        self._slots.acquire()
        finished = functools.partial(self._finished, callback)
        failed = functools.partial(self._finished, errback or callback)
        self._send(Task(function, args, finished, failed))

    def _finished(self, callback: Callback, outcome: Any) -> None:
        assert self._slots is not None
        self._slots.release()
        callback(outcome)

    @abc.abstractmethod
    def _open(self, processes: int, context: str) -> None:
        """Starts the workers."""

    @abc.abstractmethod
    def _send(self, task: Task) -> None:
        """Hands one task to the pool at once."""


class PoolLike(Unlimited):
    """multiprocessing's Pool and those that took over its interface."""

    draws = True
    _pool: Any

    def _send(self, task: Task) -> None:
        function, args, callback, errback = task
        self._pool.apply_async(function, args, callback=callback, error_callback=errback)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._pool.apply_async(function, args).get()

    def unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        return iter(self._pool.imap_unordered(function, items))

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class ExecutorLike(Unlimited):
    """concurrent.futures' executors; a future's callback gets success and failure alike."""

    _executor: Any

    def _future(self, function: Function, args: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = self._executor.submit(function, *args)
        return future

    def _send(self, task: Task) -> None:
        self._future(task.function, task.args).add_done_callback(task.callback)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._future(function, args).result()

    @contextlib.asynccontextmanager
    async def on_asyncio(
        self, processes: int, in_flight: int, context: str
    ) -> AsyncIterator[AwaitableCall]:
        self.start(processes, None, context)
        try:
            yield functools.partial(asyncio.get_running_loop().run_in_executor, self._executor)
        finally:
            self.close()

    def close(self) -> None:
        self._executor.shutdown(wait=True)
