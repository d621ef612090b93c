"""imap: results one by one while a thread of its own feeds the input.

    iterable -> feeder thread -> the pool -> arrived (a queue) -> next()

In order, the queue holds jobs, whose end next() awaits; unordered, it holds outcomes,
which the reaper puts there as they come.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import PoolNotRunning, PoolTerminated
from ..feeding.chunks import Call
from ..taskpool import TaskPool
from ..wire.remote import not_stopping
from .mapresult import error_of, until_error

T = TypeVar("T")


class Raised:
    """Stands in the queue for an exception."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


#: Nothing more is submitted. Unordered, outcomes may arrive behind it.
END = Raised(StopIteration())


class Feed:
    """The feeder's side of one imap.

    It knows nothing of the iterator, which may be dropped while the feeder works.
    `_run` and what it calls are the feeder thread's; `failed` is the reaper's; `taken`
    and `end` are the consumer's; `stop` is anybody's, also a signal handler's.

    :param buffersize: most tasks whose outcomes have not been taken; None: no bound,
        and the whole input is submitted as fast as it comes.
    :param left: called once, when nothing more is submitted.
    """

    def __init__(
        self,
        tasks: TaskPool,
        calls: Iterator[Call],
        ordered: bool,
        buffersize: int | None,
        left: Callable[[Feed], object],
    ) -> None:
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.submitted = 0  # final when END has arrived
        self.error: BaseException | None = None  # raised behind the last result
        self._room = buffersize  # how many more may be submitted at once; the feeder's alone
        # True for each outcome taken, False at the end; no semaphore: its lock would not
        # bear a signal handler, or a destructor, that calls stop()
        self._taken: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.stopped: Callable[[], BaseException] | None = None  # why nothing more is taken
        self.consumer = threading.get_ident()  # who took the last outcome
        self._tasks = tasks
        self._calls = calls
        self._ordered = ordered
        self._left = left
        self._thread = threading.Thread(target=self._run, name="celery_pool-imap", daemon=True)

    def start(self) -> None:
        try:
            self._thread.start()
        except BaseException:  # no more threads to be had
            self._left(self)
            raise

    def stop(self, why: Callable[[], BaseException]) -> None:
        """Takes no more input; the iterator raises ``why()`` after what is submitted.
        Takes no lock: also from a signal handler.

        :param why: `joined`: goes on as long as there is room.
        """
        self.stopped = why
        self._taken.put(False)

    @property
    def bounded(self) -> bool:
        return self._room is not None

    def taken(self) -> None:
        """The consumer has taken an outcome."""
        if self._room is not None:
            self._taken.put(True)

    def check_process(self) -> None:
        self._tasks._check_process()

    def failed(self, error: BaseException, meta: Any = None) -> None:
        """Also the errback of unordered tasks."""
        self.arrived.put(Raised(error))

    def _run(self) -> None:
        errors: list[Exception] = []
        calls = until_error(self._calls, errors)
        try:
            while self._has_room():
                call = next(calls, None)
                if call is None:
                    break
                self._submit(*call)
            else:
                self._cut_short(calls)
            if errors:
                self.error = errors.pop()
        except BaseException as error:  # the pool takes no more
            self.error = error
        finally:
            del calls, self._calls  # an input that was not read to its end is closed here
            self.arrived.put(END)
            self._left(self)

    def _cut_short(self, calls: Iterator[Call]) -> None:
        assert self.stopped is not None
        # with the last room the last item may have gone, and nobody has seen that yet
        if self.stopped is not joined or next(calls, None) is not None:
            self.error = self.stopped()

    def _has_room(self) -> bool:
        if self.stopped is not None and self.stopped is not joined:
            return False
        if self._room is None:
            return True
        if self._room:
            self._room -= 1
            return True
        return self._taken.get()

    def _submit(self, target: Callable[..., Any], args: Any) -> None:
        arrived = self.arrived
        try:
            if self._ordered:
                arrived.put(self._tasks.apply_async(target, args))
            else:
                # put(outcome, meta): SimpleQueue ignores its second argument
                self._tasks.apply_async(target, args, None, arrived.put, self.failed, None, True)
        except Exception as error:  # it cannot be pickled; the next one may
            if self._ordered:
                arrived.put(self._tasks._submit_failed(error))
            else:
                self._tasks._submit_failed(error, None, self.failed)
        self.submitted += 1

    def end(self) -> BaseException:
        """What the iterator raises that has met END."""
        self.arrived.put(END)  # for the next call, and for other threads
        error, self.error = self.error, None
        return StopIteration() if error is None else error


if TYPE_CHECKING:
    StandardIterator = multiprocessing.pool.IMapIterator
else:

    class StandardIterator(multiprocessing.pool.IMapIterator, Generic[T]):
        """Generic at run time, too."""


class IMapIterator(StandardIterator[T]):
    """What :meth:`Pool.imap` returns. Any thread may take results from it.

    An exception takes the place of its task's result (of its chunk's results); the
    next call goes on behind it.
    """

    def __init__(self, feed: Feed, chunked: bool) -> None:
        # nothing of the base class is used: its fields belong to multiprocessing's threads
        self._feed = feed
        self._chunked = chunked
        self._returned: deque[Any] = deque()  # taken from the queue, and put back
        self._values: deque[T] = deque()  # the rest of a chunk

    def __iter__(self) -> IMapIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next result. multiprocessing.TimeoutError if it is not there within
        `timeout` seconds; it can be asked for again."""
        if self._values:
            try:
                return self._values.popleft()
            except IndexError:  # another thread was faster
                pass
        feed = self._feed
        feed.check_process()
        feed.consumer = threading.get_ident()
        value = self._take(None if timeout is None else time.monotonic() + timeout)
        feed.taken()
        if type(value) is Raised:
            try:
                raise not_stopping(value.error)
            finally:
                del value  # the exception's traceback would keep it, and it the exception
        if self._chunked:
            first, *rest = value
            self._values.extend(rest)
            return first  # type: ignore[no-any-return]
        return value  # type: ignore[no-any-return]

    __next__ = next

    def _take(self, deadline: float | None) -> Any:
        """The next outcome: a value or a Raised. Raises what comes after the last one."""
        job = self._arrival(deadline)
        if job is END:
            raise self._feed.end()
        if type(job) is Raised:
            return job
        try:
            job.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not job.ready():
                raise multiprocessing.TimeoutError
            if job.successful():
                return job.get()
        except BaseException:
            self._returned.appendleft(job)
            raise
        return Raised(error_of(job))

    def _arrival(self, deadline: float | None) -> Any:
        if self._returned:
            try:
                return self._returned.popleft()
            except IndexError:  # another thread was faster
                pass
        try:
            if deadline is None:
                return self._feed.arrived.get()
            return self._feed.arrived.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise multiprocessing.TimeoutError from None

    def __del__(self) -> None:
        # nobody takes results any more, so there will never be room again
        feed = getattr(self, "_feed", None)
        if feed is not None and feed.bounded:
            feed.stop(_dropped)


class IMapUnorderedIterator(IMapIterator[T]):
    """What :meth:`Pool.imap_unordered` returns: outcomes as they come."""

    def __init__(self, feed: Feed, chunked: bool) -> None:
        super().__init__(feed, chunked)
        self._lock = threading.Lock()
        self._taken = 0
        self._total: int | None = None

    def _take(self, deadline: float | None) -> Any:
        while True:
            outcome = self._arrival(deadline)
            with self._lock:
                if outcome is END:
                    self._total = self._feed.submitted
                else:
                    self._taken += 1
                all_taken = self._taken == self._total
            if outcome is not END:
                if all_taken:
                    self._feed.arrived.put(END)
                return outcome
            if all_taken:
                raise self._feed.end()


def joined() -> BaseException:
    return PoolNotRunning("join() was called by the thread that takes the results")


def terminated() -> BaseException:
    return PoolTerminated()


def _dropped() -> BaseException:
    return PoolNotRunning("the iterator was dropped")
