"""The result of a map, made of many tasks."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.pool
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..feeding.chunks import AT_ONCE, chunks
from ..taskpool import Results, TaskPool, Window

T = TypeVar("T")

CALLBACK, ERROR_CALLBACK = "callback(result)", "error_callback(exception)"


class OneArgument:
    """A callback of multiprocessing's kind as one of the core's: ``function(outcome)``."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any], object], signature: str) -> None:
        TaskPool._check_one_argument(function, signature)
        self.function = function

    def __call__(self, outcome: Any, meta: Any) -> None:
        self.function(outcome)

    def __repr__(self) -> str:
        return repr(self.function)


class MapResult(multiprocessing.pool.MapResult[T]):
    """The outcome, to be, of ``map_async`` and ``starmap_async``.

    Ready when all chunks have ended, also after one has failed, and the callback has
    returned. Any thread may use it.

    Without callbacks nothing runs in the parent until somebody asks: the results are
    unpickled by the thread that waits.
    """

    def __init__(
        self,
        tasks: TaskPool,
        chunked: bool,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        # nothing of the base class is used: its fields belong to multiprocessing's threads
        self._tasks = tasks
        self._chunked = chunked
        self._results: Results[T] = Results(tasks, Window(), chunked=chunked)
        self._values: list[T] = []
        self._on_success = None if callback is None else OneArgument(callback, CALLBACK)
        self._on_error = (
            None if error_callback is None else OneArgument(error_callback, ERROR_CALLBACK)
        )
        self._delivered: threading.Event | None = None  # if there are callbacks
        if callback is not None or error_callback is not None:
            self._delivered = threading.Event()
        self._expected = -1  # jobs, once it is known; only the reaper counts those that ended
        self._ended = 0

    def submit(
        self, function: Callable[..., Any], iterable: Iterable[Any], chunksize: int, star: bool
    ) -> None:
        """Starts all tasks. What iterating raises, and what pickling an argument
        raises, becomes the outcome; what is wrong with the pool is raised."""
        tasks, window = self._tasks, self._results.window
        done = None if self._delivered is None else self._job_ended
        failed: list[Exception] = []
        items = chunks(iterable, chunksize)
        if type(iterable) not in (list, tuple, range):
            items = until_error(items, failed)
        feed = functools.partial(
            tasks._feed,
            window,
            function,
            items,
            chunked=self._chunked,
            star=star,
            most=AT_ONCE,
            callbacks=done,
            errbacks=done,
        )
        while feed():
            pass
        tasks._end_feed(window, failed.pop() if failed else None)
        if done is not None:
            # the last job stands for the end of the input: so the reaper, and nobody
            # else, finds that all have ended, also if there was no input
            self._expected = window.count + 1
            tasks._submit_ended(None, done, done)

    def ready(self) -> bool:
        """Whether all chunks have ended and the callback has returned."""
        if self._delivered is not None and not self._tasks._inside_callback:
            return self._delivered.is_set()
        return self._results.gather(self._values, 0)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until ready, at most `timeout` seconds (None: without limit)."""
        if self._delivered is None or self._tasks._inside_callback:
            self._results.gather(self._values, timeout)
        elif not self._delivered.is_set():
            self._tasks._check_process()
            self._delivered.wait(timeout)

    def successful(self) -> bool:
        """Whether no call raised. ValueError if it is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._results.gather(self._values)
        return self._results.error is None

    def get(self, timeout: float | None = None) -> list[T]:
        """The list of results, in the order of the input, or the exception of the
        first chunk in that order that failed. multiprocessing.TimeoutError if not
        ready within `timeout` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        if self._results.error is not None:
            try:
                raise self._results.error
            finally:
                del self  # the exception's traceback would keep it, and it the exception
        return self._values

    def _job_ended(self, outcome: Any, meta: Any) -> None:
        """In the reaper: a callback of each job."""
        self._ended += 1
        if self._ended == self._expected:
            self._finish()

    def _finish(self) -> None:
        assert self._delivered is not None
        results = self._results
        results.gather(self._values)
        try:
            if results.error is None:
                self._tasks._run_callbacks(self._on_success, self._values)
            else:
                self._tasks._run_callbacks(self._on_error, results.error)
        finally:
            self._delivered.set()


def until_error(items: Iterator[Any], failed: list[Exception]) -> Iterator[Any]:
    """The items; an exception that iterating raises ends them, and is put in `failed`."""
    try:
        yield from items
    except Exception as error:
        failed.append(error)
