# pyright: strict
"""Options are passed on by functions, and kept in dictionaries, of the program's own."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any, Unpack

from celery_pool import Pool, PoolOptions, TaskPool, TaskPoolExecutor
from celery_pool.aio import AsyncTaskPool
from celery_pool.options import SharedOptions, WorkerOptions

LIMITS: SharedOptions = {"timeout": 60, "max_memory_per_child": 2_000_000}


class Pickler:
    """One of the program's own."""

    @staticmethod
    def dumps(obj: Any, protocol: int, buffer_callback: Any = None) -> bytes:
        return pickle.dumps(obj, protocol, buffer_callback=buffer_callback)

    @staticmethod
    def loads(data: bytes, buffers: Any = ()) -> Any:
        return pickle.loads(data, buffers=buffers)


def task_pool(limit: int, **options: Unpack[PoolOptions]) -> TaskPool:
    together: PoolOptions = {"reseed": False, **LIMITS, **options}
    return TaskPool(limit, **together)


def async_pool(**options: Unpack[WorkerOptions]) -> AsyncTaskPool:
    return AsyncTaskPool(None, processes=1, kill_on_cancel=False, **options)


async def sum_up() -> int:
    async with async_pool(context="fork", initializer=int) as pool:
        return await pool.submit(sum, (1, 2))


if __name__ == "__main__":
    with task_pool(4, processes=2, callbacks_in="reaper", blas_threads="auto") as pool:
        assert pool.apply_async(abs, (-3,)).get() == 3
    with Pool(2, limit=8, **LIMITS) as standard:
        assert standard.map(str, range(3)) == ["0", "1", "2"]
    with TaskPoolExecutor(2, pickler=Pickler(), soft_timeout=10.0) as executor:
        assert executor.submit(pow, 2, 10).result() == 1024
    with TaskPoolExecutor(2, pickler=pickle) as executor:
        assert executor.submit(pow, 2, 3).result() == 8
    assert asyncio.run(sum_up()) == 3
