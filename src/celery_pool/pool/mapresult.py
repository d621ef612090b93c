"""The result of a map, made of many jobs of the core."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..feeding.chunks import Call
from ..taskpool import AsyncResult, TaskPool

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
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        # nothing of the base class is used: its fields belong to multiprocessing's threads
        self._tasks = tasks
        self._jobs: list[AsyncResult[Any]] = []
        self._lock = threading.RLock()  # while outcomes are taken
        self._values: list[T] = []
        # jobs whose outcome has been taken, and values from them; one assignment, and what
        # was not counted is taken again: a Ctrl-C may come between any two steps
        self._taken = 0, 0
        self._error: BaseException | None = None
        self._on_success = None if callback is None else OneArgument(callback, CALLBACK)
        self._on_error = (
            None if error_callback is None else OneArgument(error_callback, ERROR_CALLBACK)
        )
        self._delivered: threading.Event | None = None  # if there are callbacks
        if callback is not None or error_callback is not None:
            self._delivered = threading.Event()
        self._expected = -1  # jobs, once it is known; only the reaper counts those that ended
        self._ended = 0

    def submit(self, calls: Iterable[Call], chunked: bool) -> None:
        """Starts all tasks. What iterating raises, and what pickling an argument
        raises, becomes the outcome; what is wrong with the pool is raised.

        :param chunked: each call returns a list of results.
        """
        self._chunked = chunked
        apply_async, ended = self._tasks.apply_async, self._tasks._submit_ended
        refused = self._tasks._submit_failed
        done = None if self._delivered is None else self._job_ended
        jobs = self._jobs
        failed: list[Exception] = []
        for target, args in until_error(calls, failed):
            try:
                jobs.append(apply_async(target, args, None, done, done))
            except Exception as error:  # it cannot be pickled; the others can
                jobs.append(refused(error, done, done))
        if failed:
            jobs.append(ended(failed.pop(), done, done))
        if done is not None:
            # the last job stands for the end of the input: so the reaper, and nobody
            # else, finds that all have ended, also if there was no input
            self._expected = len(jobs) + 1
            ended(None, done, done)

    def ready(self) -> bool:
        """Whether all chunks have ended and the callback has returned."""
        if self._delivered is not None and not self._tasks._inside_callback:
            return self._delivered.is_set()
        return self._unfinished() is None

    def wait(self, timeout: float | None = None) -> None:
        """Waits until ready, at most `timeout` seconds (None: without limit)."""
        if self._delivered is not None and not self._tasks._inside_callback:
            if not self._delivered.is_set():
                self._tasks._check_process()
                self._delivered.wait(timeout)
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        while (job := self._unfinished()) is not None:
            job.wait(None if deadline is None else deadline - time.monotonic())
            if deadline is not None and time.monotonic() >= deadline:
                return

    def successful(self) -> bool:
        """Whether no call raised. ValueError if it is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        self._unfinished()
        return self._error is None

    def get(self, timeout: float | None = None) -> list[T]:
        """The list of results, in the order of the input, or the exception of the
        first chunk in that order that failed. multiprocessing.TimeoutError if not
        ready within `timeout` seconds."""
        self.wait(timeout)
        if not self.ready():
            raise multiprocessing.TimeoutError
        self._unfinished()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the exception's traceback would keep it, and it the exception
        return self._values

    def _unfinished(self) -> AsyncResult[Any] | None:
        """Takes the outcomes in order, as far as they are there; the first job that
        has not ended, None if there is none."""
        with self._lock:
            jobs, values = self._jobs, self._values
            taken, filled = self._taken
            while taken < len(jobs):
                job = jobs[taken]
                if not job.ready():
                    return job
                if job.successful():
                    values[filled:] = job.get() if self._chunked else (job.get(),)
                elif self._error is None:
                    self._error = error_of(job)
                taken, filled = taken + 1, len(values)
                self._taken = taken, filled
            jobs.clear()
            return None

    def _job_ended(self, outcome: Any, meta: Any) -> None:
        """In the reaper: a callback of each job."""
        self._ended += 1
        if self._ended == self._expected:
            self._finish()

    def _finish(self) -> None:
        assert self._delivered is not None
        self._unfinished()
        try:
            if self._error is None:
                self._tasks._run_callbacks(self._on_success, self._values)
            else:
                self._tasks._run_callbacks(self._on_error, self._error)
        finally:
            self._delivered.set()


def until_error(calls: Iterable[Call], failed: list[Exception]) -> Iterator[Call]:
    """The calls; an exception that iterating raises ends them, and is put in `failed`."""
    try:
        yield from calls
    except Exception as error:
        failed.append(error)


def error_of(job: AsyncResult[Any]) -> BaseException:
    """What a job that has failed raises, without our frames: they hold the job."""
    try:
        job.get()
    except BaseException as error:
        return error.with_traceback(None)
    raise AssertionError(f"{job!r} has not failed")
