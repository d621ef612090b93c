"""imap: results one by one while a thread of its own feeds the input.

    iterable -> feeder thread -> window of tasks -> next()

The window says what may be submitted, and what comes out next: in the order of the input,
or as tasks end. Results stay as they came until next() asks for them.
"""

from __future__ import annotations

import functools
import multiprocessing.pool
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import PoolNotRunning, PoolTerminated
from ..feeding.chunks import AT_ONCE, chunks
from ..taskpool import Results, TaskPool, Window

T = TypeVar("T")


class Feed:
    """The feeder's side of one imap.

    It knows nothing of the iterator, which may be dropped while the feeder works.
    `_run` and what it calls are the feeder thread's; `stop` is anybody's, also a signal
    handler's.

    :param window: of the tasks; one with a bound is waited for.
    :param left: called once, when nothing more is submitted.
    """

    def __init__(
        self,
        tasks: TaskPool,
        window: Window,
        function: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        left: Callable[[Feed], object],
    ) -> None:
        self.window = window
        self.stopped: Callable[[], BaseException] | None = None  # why nothing more is taken
        self._tasks = tasks
        self._function = function
        self._iterable = iterable
        self._chunksize = chunksize
        self._left = left
        # something is in it if there may be room again; no semaphore: its lock would not
        # bear a signal handler, or a destructor, that calls stop()
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
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
        self._told.put(None)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            iterable = self._iterable
            del self._iterable
            items = chunks(iterable, self._chunksize)
            del iterable
            try:
                error = self._submit_all(items)
            finally:
                del items  # an input that was not read to its end is closed here
        except BaseException as raised:  # by the input, or the pool takes no more
            error = raised
        finally:
            self._tasks._end_feed(self.window, error)
            error = None  # its traceback holds this frame
            self._left(self)

    def _submit_all(self, items: Iterator[Any]) -> BaseException | None:
        """Returns what comes behind the last result."""
        window, chunked = self.window, self._chunksize > 1
        while self.stopped is None or self.stopped is joined:
            if not self._tasks._feed(window, self._function, items, chunked=chunked, most=AT_ONCE):
                return None
            if not window.room and not self._wait_for_room():
                break
        assert self.stopped is not None
        # with the last room the last item may have gone, and nobody has seen that yet
        if self.stopped is joined and next(items, END) is END:
            return None
        return self.stopped()

    def _wait_for_room(self) -> bool:
        """False: the input is cut short."""
        window = self.window
        while self.stopped is None:
            window.on_room = functools.partial(self._told.put, None)
            if window.room:
                break
            self._told.get()
        return bool(window.room)


#: Stands for the end of the input.
END = object()


if TYPE_CHECKING:
    StandardIterator = multiprocessing.pool.IMapIterator
else:

    class StandardIterator(multiprocessing.pool.IMapIterator, Generic[T]):
        """Generic at run time, too."""


@Results.iterated_alike
class IMapIterator(Results[T], StandardIterator[T]):  # type: ignore[misc]
    """What :meth:`Pool.imap` returns. Any thread may take results from it.

    An exception takes the place of its task's result (of its chunk's results); the
    next call goes on behind it.
    """

    # nothing of multiprocessing's class is used: its fields belong to its threads

    feed: Feed | None = None  # if the window has a bound

    def __del__(self) -> None:
        # nobody takes results any more, so there will never be room again
        if self.feed is not None:
            self.feed.stop(_dropped)


@Results.iterated_alike
class IMapUnorderedIterator(IMapIterator[T]):
    """What :meth:`Pool.imap_unordered` returns: outcomes as they come."""


def joined() -> BaseException:
    return PoolNotRunning("join() was called by the thread that takes the results")


def terminated() -> BaseException:
    return PoolTerminated()


def _dropped() -> BaseException:
    return PoolNotRunning("the iterator was dropped")
