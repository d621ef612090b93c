# pyright: strict
"""What comes out of each pool has the type that the function returns."""

from __future__ import annotations

import asyncio
import multiprocessing.pool
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from typing import assert_type

from celery_pool import AsyncResult, Pool, Statistics, TaskPool, TaskPoolExecutor
from celery_pool.aio import AsyncTaskPool


def half(number: int) -> float:
    return number / 2


def repeat(text: str, times: int = 2) -> str:
    return text * times


def of_task_pool() -> None:
    with TaskPool(4, processes=2) as pool:
        result = pool.apply_async(half, (3,))
        assert_type(result, AsyncResult[float])
        assert_type(result.get(), float)
        assert_type(result.cancel(), bool)
        assert_type(result.worker_pid, int | None)
        by_name: AsyncResult[str] = pool.apply_async(repeat, kwargs={"text": "a"})
        theirs: multiprocessing.pool.AsyncResult[str] = by_name
        assert_type(theirs.get(10), str)
        assert_type(pool.statistics(), Statistics)


def of_pool() -> None:
    with Pool(2) as pool:
        assert_type(pool.apply(half, (3,)), float)
        assert_type(pool.apply_async(half, (3,)), AsyncResult[float])
        assert_type(pool.map(half, [1, 2]), list[float])
        assert_type(pool.map_async(half, [1, 2]).get(), list[float])
        assert_type(pool.starmap(repeat, [("a", 2)]), list[str])
        assert_type(pool.starmap_async(repeat, [("a", 2)]).get(), list[str])
        for value in pool.imap(half, range(3)):
            assert_type(value, float)
        assert_type(pool.imap_unordered(half, range(3)).next(timeout=10), float)
        assert_type(takes_a_standard_pool(pool), list[float])
        assert_type(pool.get_worker_pids(), list[int])


def takes_a_standard_pool(pool: multiprocessing.pool.Pool) -> list[float]:
    return pool.map(half, [1])


def of_executor() -> None:
    with TaskPoolExecutor(2) as executor:
        future = executor.submit(half, 3)
        assert_type(future, Future[float])
        assert_type(executor.map(half, [1, 2]), Iterator[float])
        assert future.result() == 1.5
        assert_type(executor.submit(repeat, "a", times=3).result(), str)


async def of_asyncio() -> None:
    async with AsyncTaskPool(4, processes=2) as pool:
        assert_type(await pool.submit(half, 3), float)
        assert_type(await pool.apply(half, (3,), timeout=10), float)
        values = pool.imap_unordered(half, range(3))
        assert_type(values, AsyncGenerator[float, None])
        async for value in values:
            assert_type(value, float)


if __name__ == "__main__":
    of_task_pool()
    of_pool()
    of_executor()
    asyncio.run(of_asyncio())
