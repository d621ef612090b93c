"""The parent's side: what Celery's prefork asks of its pool, asked of a TaskPool.

    Request ── apply_async ──> TaskPool          in the event loop's thread, or the consumer's
    Request <── callbacks ──── TaskPool.reap     in the event loop's thread, or the pool's own

A slot is released before anything else is told of a task that has ended: by that Celery submits
the next one, from inside of the callback.
"""

from __future__ import annotations

import os
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Hashable
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import CLOSE, RUN, TERMINATE
from celery import signals
from celery.app import trace
from celery.exceptions import WorkerTerminate
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.log import get_logger
from celery.worker import state as worker_state

from ...errors import TaskTerminated, TimeLimitExceeded
from ...taskpool import AsyncResult, TaskPool
from . import child, outcomes

logger = get_logger(__name__)

#: What `inspect stats` asks of each process.
Process = namedtuple("Process", ["pid"])

#: Celery's functions that run a task, and what they are called by in the worker.
TARGETS: dict[Any, Callable[..., Any]] = {
    trace.fast_trace_task: child.fast_trace_task,
    trace.trace_task_ret: child.trace_task_ret,
}


#: Seconds for which callbacks wait for a request that is being revoked; with a result backend
#: that does not answer it may take longer, or fail.
LONGEST_ANNOUNCEMENT = 5.0


class Job:
    """One submission. Celery's request has a weak reference to it, and the pool the strong one
    until the task has ended."""

    __slots__ = (
        "__weakref__",
        "accept_callback",
        "announced",
        "callback",
        "error_callback",
        "hard",
        "pid",
        "result",
        "signum",
        "soft",
        "timeout_callback",
    )

    def __init__(
        self,
        callback: Callable[..., object] | None,
        error_callback: Callable[..., object] | None,
        accept_callback: Callable[..., object] | None,
        timeout_callback: Callable[..., object] | None,
        soft: float | None,
        hard: float | None,
    ) -> None:
        self.callback = callback
        self.error_callback = error_callback
        self.accept_callback = accept_callback
        self.timeout_callback = timeout_callback
        self.soft = soft
        self.hard = hard
        self.result: AsyncResult[Any] | None = None
        self.pid: int | None = None  # once a worker has begun
        self.signum: int | None = None  # once it is to be terminated
        self.announced: threading.Event | None = None  # once its request has told of that

    def accepted(self, pid: int, when: float) -> None:
        """By a worker, at that time on the monotonic clock."""
        self.pid = pid
        tell(self.accept_callback, pid, when)

    def terminate(self, signum: int) -> None:
        """This task and no other one, whether it has started or not. The last thing that a request
        does to be terminated, after `terminate_job` and its announcement."""
        self.end(signum)
        if self.announced is not None:
            self.announced.set()

    def end(self, signum: int) -> None:
        self.signum = signum
        if self.result is not None:
            self.result.terminate(signum)

    def submitted(self, result: AsyncResult[Any]) -> None:
        self.result = result
        if self.signum is not None:  # meanwhile, in another thread
            result.terminate(self.signum)


class ProcessPool:
    """What both kinds have in common. The arguments are those of billiard's pool; of what has
    no meaning here, nothing is said.

    :param processes: how many; 0 as well (autoscaling): tasks wait for the first then.
    :param initializer: run in each process before its first task, with `initargs`, of which the
        first are the application and the worker's name.
    :param on_process_exit: called in each process that leaves, with its pid and exit code.
    :param timeout: hard limit of a task in seconds.
    :param soft_timeout: soft limit of a task in seconds.
    :param maxtasksperchild: tasks after which a process is replaced.
    :param max_memory_per_child: KiB above which it is replaced after its task.
    :param pool_options: of TaskPool, checked.
    """

    all_signals = False
    callbacks_in: Any = "caller"

    def __init__(
        self,
        *,
        processes: int,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
        on_process_exit: Callable[..., object],
        pool_options: dict[str, Any],
        timeout: float | None = None,
        soft_timeout: float | None = None,
        maxtasksperchild: int | None = None,
        max_memory_per_child: int | None = None,
        limit: int | None = None,
        **_unused: object,
    ) -> None:
        self.timeout = timeout
        self.soft_timeout = soft_timeout
        self._maxtasksperchild = maxtasksperchild
        self._processes = processes
        self._jobs: set[Job] = set()
        self._state = RUN
        self._tasks = TaskPool(
            limit,
            logger=logger,
            processes=max(1, processes),
            callbacks_in=self.callbacks_in,
            template_initializer=child.load,
            template_initargs=initargs,
            initializer=child.enter,
            initargs=(initializer, initargs, on_process_exit, self.all_signals),
            finalizer=child.leave,
            leave_on=(SystemExit, KeyboardInterrupt),
            soft_limit_error=SoftTimeLimitExceeded,
            soft_timeout=soft_timeout or None,
            timeout=timeout or None,
            maxtasksperchild=maxtasksperchild or None,
            max_memory_per_child=max_memory_per_child or None,
            on_soft_timeout=self._soft_limit_signalled,
            on_broken=stop_worker,
            **pool_options,
        )
        self._before_processes()
        self._tasks.run()

    # ---- tasks ----

    def apply_async(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., object] | None = None,
        error_callback: Callable[..., object] | None = None,
        accept_callback: Callable[..., object] | None = None,
        timeout_callback: Callable[..., object] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_unused: object,
    ) -> Job | None:
        """Submits a task; None once the pool is closed.

        Callbacks are called as billiard's are: `accept_callback(pid, time)` when a worker has
        begun, `timeout_callback(soft=, timeout=)`, and in the end `callback(value)` or
        `error_callback(ExceptionInfo)`.
        """
        if self._state != RUN:
            return None
        soft, hard = soft_timeout or self.soft_timeout, timeout or self.timeout
        job = Job(callback, error_callback, accept_callback, timeout_callback, soft, hard)
        known = TARGETS.get(target)
        if known is None:
            known, args = child.call, (target, *args)
        else:
            args = without_second_copy(*args)
        self._jobs.add(job)
        try:
            job.submitted(
                self._tasks.apply_async(
                    known,
                    args,
                    kwargs,
                    self._succeeded,
                    self._failed,
                    meta=job,
                    accept_callback=job.accepted,
                    soft_timeout=soft or None,
                    timeout=hard or None,
                )
            )
        except BaseException:
            self._jobs.discard(job)
            raise
        return job

    def _succeeded(self, value: Any, job: Job) -> None:
        if self._forget(job):
            tell(job.callback, value)

    def _failed(self, error: BaseException, job: Job) -> None:
        if not self._forget(job):
            return
        if isinstance(error, TaskTerminated) and job.pid is None:
            # a request has to have been accepted before it is told that it was terminated
            tell(job.accept_callback, os.getpid(), time.monotonic())
        tell(job.error_callback, outcomes.failure(error, job.hard))
        if isinstance(error, TimeLimitExceeded):
            if error.stack:
                logger.error("At its hard time limit, task %s was in:\n%s", error.tid, error.stack)
            tell(job.timeout_callback, soft=False, timeout=job.hard)

    def _forget(self, job: Job) -> bool:
        """It has ended; whether Celery is to know."""
        try:
            self._jobs.remove(job)
        except KeyError:
            return False
        job.result = None
        self._release_slot()
        return True

    def _release_slot(self) -> None:
        """A task has ended: another one may come."""

    def _soft_limit_signalled(self, tid: Hashable) -> None:
        """In a thread of the pool's."""
        for job in list(self._jobs):
            if job.result is not None and job.result.tid == tid:
                self._tell_soft_limit(job)

    def _tell_soft_limit(self, job: Job) -> None:
        tell(job.timeout_callback, soft=True, timeout=job.soft)

    def terminate_job(self, pid: int, sig: int) -> None:
        """Ends the task that process runs. If it runs none any more, nobody else is hit."""
        for job in list(self._jobs):
            if job.pid == pid:
                job.end(sig)

    # ---- processes ----

    def grow(self, n: int = 1) -> None:
        self._resize(self._processes + n)

    def shrink(self, n: int = 1) -> None:
        """Lets idle processes go; ValueError if there are fewer than `n`."""
        idle = self._processes - sum(job.pid is not None for job in list(self._jobs))
        self._resize(self._processes - max(0, min(n, idle)))
        if idle < n:
            raise ValueError("Can't shrink pool. All processes busy!")

    def _resize(self, processes: int) -> None:
        self._processes = processes
        difference = max(1, processes) - self._tasks.processes
        if difference > 0:
            self._tasks.grow(difference)
        elif difference < 0:
            self._tasks.shrink(-difference)

    def restart(self) -> None:
        """Replaces all processes by ones that see the program as it is now, each after its task.
        Meanwhile tasks are taken and run."""
        self._before_processes()
        self._tasks.renew()

    def _before_processes(self) -> None:
        """What a program lets go of before it forks: here, before it starts the template."""
        signals.worker_before_create_process.send(sender=self)

    def maintain_pool(self) -> None:
        """The pool does that by itself."""

    def did_start_ok(self) -> bool:
        """It would have raised what failed."""
        return True

    # ---- the end ----

    def close(self) -> None:
        if self._state == RUN:
            self._state = CLOSE
            self._tasks.close()

    def join(self) -> None:
        self._tasks.join()

    def terminate(self) -> None:
        self._state = TERMINATE
        self._tasks.terminate()

    # ---- what `inspect stats` shows ----

    @property
    def _pool(self) -> list[Process]:
        return [Process(pid) for pid in self._tasks.get_worker_pids()]

    def human_write_stats(self) -> dict[str, Any]:
        statistics = self._tasks.statistics()
        return {
            "total": statistics.submitted,
            "succeeded": statistics.succeeded,
            "failed": statistics.failed,
            "lost": statistics.lost,
            "exits": {str(why): count for why, count in statistics.exits.items()},
            "strategy": "fair",
        }


class EventLoopPool(ProcessPool):
    """For transports that Celery's event loop drives: all of it in the loop's thread.

    :param semaphore: of as many slots as there are processes; the worker acquires one before
        each task.
    """

    def __init__(self, *, semaphore: Any = None, **options: Any) -> None:
        self._semaphore = semaphore
        self._hub: Any = None
        self._fd = -1
        self._to_be_joined = False
        super().__init__(**options)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called again after each loss of the broker, when the loop has forgotten everything."""
        self._hub = hub
        self._fd = self._tasks.fileno()
        hub.add_reader(self._fd, self._look)

    def _look(self) -> None:
        self._tasks.reap(timeout=0)
        if self._to_be_joined:
            self.join()

    def _release_slot(self) -> None:
        if self._semaphore is not None:
            tell(self._semaphore.release)

    def _tell_soft_limit(self, job: Job) -> None:
        if self._hub is not None:  # by then the job may have ended
            self._hub.call_soon(super()._tell_soft_limit, job)

    def flush(self) -> None:
        """The broker is gone, and will send again what has not been accepted."""
        if self._state == TERMINATE:
            return
        self._tasks.reap(timeout=0)
        for job in list(self._jobs):
            if job.pid is None and job.result is not None and job.result.cancel():
                self._jobs.discard(job)

    def _resize(self, processes: int) -> None:
        difference = processes - self._processes
        super()._resize(processes)
        if self._semaphore is not None:
            for _ in range(difference):
                self._semaphore.grow()
            for _ in range(-difference):
                self._semaphore.shrink()

    def close(self) -> None:
        if self._state == RUN and self._semaphore is not None:
            self._semaphore.clear()
        super().close()

    def join(self) -> None:
        self._leave_event_loop()
        # not inside a callback, which a signal handler may have interrupted
        self._to_be_joined = not self._tasks.join()

    def terminate(self) -> None:
        self._leave_event_loop()
        super().terminate()

    def _leave_event_loop(self) -> None:
        if self._hub is not None and self._fd in self._hub.readers:
            self._hub.remove_reader(self._fd)


class BlockingPool(ProcessPool):
    """For transports without an event loop: the consumer's thread waits for slots, callbacks run
    in a thread of the pool's.

    :param putlocks: whether it waits.
    """

    all_signals = True
    callbacks_in = "reaper"

    def __init__(self, *, processes: int, putlocks: bool = True, **options: Any) -> None:
        self._putlocks = putlocks
        limit = max(1, processes) if putlocks else None
        super().__init__(processes=processes, limit=limit, **options)

    def terminate_job(self, pid: int, sig: int) -> None:
        for job in list(self._jobs):
            if job.pid == pid:
                job.announced = threading.Event()
        super().terminate_job(pid, sig)

    def _failed(self, error: BaseException, job: Job) -> None:
        if isinstance(error, TaskTerminated) and job.announced is not None:
            # its request, in the consumer's thread, is about to tell that it is revoked: who comes
            # between would tell it a second time
            job.announced.wait(LONGEST_ANNOUNCEMENT)
        super()._failed(error, job)

    def _resize(self, processes: int) -> None:
        if self._putlocks and processes > self._tasks.processes:
            self._tasks.limit = processes
        super()._resize(processes)
        if self._putlocks:
            self._tasks.limit = max(1, processes)


def without_second_copy(
    name: str, tid: str, request: dict[str, Any], body: Any, content_type: str | None, encoding: Any
) -> tuple[Any, ...]:
    """The arguments of Celery's trace functions, with those of the task but once: where its body
    is sent, the worker decodes it, and puts them in the place of those in the request."""
    if content_type and "args" in request:
        request = dict(request)
        del request["args"]
        request.pop("kwargs", None)
    return name, tid, request, body, content_type, encoding


def tell(callback: Callable[..., object] | None, *args: Any, **kwargs: Any) -> None:
    """Calls one of Celery's callbacks. An error of it is logged, and ends the worker if there is
    no memory. Who asks for the worker's end by an exception has it, in whichever thread."""
    if callback is None:
        return
    try:
        callback(*args, **kwargs)
    except MemoryError as error:
        stop_worker(error)
    except WorkerTerminate as asked:
        worker_state.should_terminate = asked.code or EX_OK
    except SystemExit as asked:
        worker_state.should_stop = asked.code or EX_OK
    except Exception as error:
        logger.error("Pool callback raised exception: %r", error, exc_info=True)


def stop_worker(error: BaseException) -> None:
    """From any thread: a warm shutdown of the whole worker, with an exit status that says so."""
    logger.critical("The worker stops: %r", error, exc_info=error)
    worker_state.should_stop = EX_FAILURE
