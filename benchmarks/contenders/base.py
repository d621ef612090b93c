"""The small interface behind which every pool is measured."""

from __future__ import annotations

import abc
import functools
import threading
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import psutil

Function = Callable[..., Any]
# Called once a task with what the pool hands to a callback: a value, an exception or a future.
# TaskPool passes a second argument, its `meta`, so callbacks take one with a default.
Callback = Callable[..., None]


class Waitable(Protocol):
    """An event, or what else can be waited for."""

    def wait(self) -> object:
        """Returns when it has come."""


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


class Contender(abc.ABC):
    """One pool. Made, started, used and closed in a process of its own."""

    name: ClassVar[str]
    distribution: ClassVar[str | None] = (
        None  # whose version is recorded; None: part of Python or of this suite
    )
    only: ClassVar[frozenset[str] | None] = None  # names of the workloads it can run; None: all
    survives_kill: ClassVar[bool] = False  # a worker killed by SIGKILL costs its task only

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
    def submit(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None = None,
    ) -> None:
        """Hands in one task; waits while `in_flight` tasks are unfinished.

        Where the pool has futures `callback` gets failures, too.
        """

    def submit_many(
        self, function: Function, args: tuple[Any, ...], callback: Callback, count: int
    ) -> None:
        """Hands in the same task `count` times, as a user of this pool would in a loop."""
        submit = self.submit
        for _ in range(count):
            submit(function, args, callback)

    def wait_all(self, done: Waitable) -> None:
        """Waits for `done`, which the last callback brings about; overridden where a waiting thread
        helps."""
        done.wait()

    @abc.abstractmethod
    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        """Submits one task and waits for its result."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the workers."""

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

    def submit(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None = None,
    ) -> None:
        if self._slots is None:
            self._send(function, args, callback, errback)
            return
        self._slots.acquire()
        self._send(
            function,
            args,
            functools.partial(self._finished, callback),
            functools.partial(self._finished, errback or callback),
        )

    def _finished(self, callback: Callback, outcome: Any) -> None:
        assert self._slots is not None
        self._slots.release()
        callback(outcome)

    @abc.abstractmethod
    def _open(self, processes: int, context: str) -> None:
        """Starts the workers."""

    @abc.abstractmethod
    def _send(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None,
    ) -> None:
        """Hands one task to the pool at once."""


class PoolLike(Unlimited):
    """multiprocessing's Pool and those that took over its interface."""

    _pool: Any

    def _send(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None,
    ) -> None:
        self._pool.apply_async(function, args, callback=callback, error_callback=errback)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._pool.apply_async(function, args).get()

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class ExecutorLike(Unlimited):
    """concurrent.futures' executors; a future's callback gets success and failure alike."""

    _executor: Any

    def _send(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None,
    ) -> None:
        self._executor.submit(function, *args).add_done_callback(callback)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._executor.submit(function, *args).result()

    def close(self) -> None:
        self._executor.shutdown(wait=True)
