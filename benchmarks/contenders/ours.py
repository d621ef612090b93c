"""celery_pool.TaskPool, and what stands on it."""

import contextlib
import multiprocessing
from collections.abc import AsyncIterator
from typing import Any

import celery_pool
from celery_pool import TaskPool
from celery_pool._poolcore import Channel, PoolState, WorkerEnd
from contenders.base import (
    AwaitableCall,
    Bookkeeping,
    Callback,
    Contender,
    Function,
    Task,
    Waitable,
)

UNBOUNDED_LIMIT = 100_000  # what "in flight unbounded" means for a pool that has a limit


def nothing() -> None:
    """Never called: what the bookkeeping submits."""


class CompiledBookkeeping:
    """The compiled core with one worker whose side of the rings is driven by hand."""

    def __init__(self, limit: int) -> None:
        self._pool = TaskPool(limit, processes=1)
        core = self._pool._core
        core.state = PoolState.RUNNING
        channel = Channel(core.ring_size)
        core.attach(channel)
        self._worker = WorkerEnd(*core.worker_fds(), *channel.worker_fds(), 0, 0)
        core.ready(channel)
        self._core, self._channel = core, channel
        self.full = self._pool.full
        self.reap = self._pool.reap
        self.add = self._pool.add

    def submit(self, callbacks: list[Callback]) -> None:
        self._pool.apply_async(nothing, callbacks=callbacks)

    def submit_calls(
        self, function: Function, args: tuple[Any, ...], callbacks: list[Callback], count: int
    ) -> None:
        """Queues calls that `serve` really carries out."""
        apply_async = self._pool.apply_async
        for _ in range(count):
            apply_async(function, args, callbacks=callbacks)

    def serve(self) -> None:
        """The worker's loop, in this process, until it has done all; once only."""
        self._core.stop_worker(self._channel)
        self._worker.serve()

    def finish_all(self) -> None:
        while self._worker.complete_all():
            if self._core.backlog:
                self._core.collect()  # makes room, as whoever waits in a pool does


class CeleryPool(Contender):
    name = "celery_pool"
    distribution = "celery-pool"
    imported = "from celery_pool import TaskPool"
    survives_kill = True
    recycles = True

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._pool = TaskPool(
            in_flight or UNBOUNDED_LIMIT,
            processes=processes,
            context=context,
            maxtasksperchild=self.recycle or None,
        )
        self._pool.run()

    def submit(self, task: Task) -> None:
        function, args, callback, errback = task
        self._pool.apply_async(function, args, callbacks=[callback], errbacks=errback and [errback])

    def submit_many(self, task: Task, count: int) -> None:
        function, args, callback, _ = task
        apply_async, callbacks = self._pool.apply_async, [callback]
        for _ in range(count):
            apply_async(function, args, callbacks=callbacks)

    def wait_all(self, done: Waitable) -> None:
        while self._pool.wait_for_result():
            pass
        done.wait()  # a callback may still be running in the background reaper

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._pool.apply_async(function, args).get()

    @contextlib.asynccontextmanager
    async def on_asyncio(
        self, processes: int, in_flight: int, context: str
    ) -> AsyncIterator[AwaitableCall]:
        from celery_pool.aio import AsyncTaskPool

        limit = max(in_flight, processes)
        async with AsyncTaskPool(limit, processes=processes, context=context) as pool:
            yield pool.submit

    def facade(
        self, interface: str, processes: int, context: str
    ) -> contextlib.AbstractContextManager[Any]:
        if interface == "pool":
            return celery_pool.Pool(processes, context=context)
        if interface == "executor":
            return celery_pool.TaskPoolExecutor(
                processes, mp_context=multiprocessing.get_context(context)
            )
        if interface == "joblib":
            return self._parallel(processes, context)
        return super().facade(interface, processes, context)

    def _parallel(self, processes: int, context: str) -> contextlib.AbstractContextManager[Any]:
        import joblib

        from celery_pool.ext.joblib import register

        register()
        parallel = joblib.Parallel(n_jobs=processes, backend="celery_pool", context=context)
        return parallel  # type: ignore[no-any-return]

    def bookkeeping(self, limit: int) -> Bookkeeping:
        return CompiledBookkeeping(limit)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()

    def pids(self) -> list[int]:
        return list(self._pool.get_worker_pids())


CONTENDER = CeleryPool
