"""What is wrong, and is told before it runs: each line with that mark, and no other."""

from __future__ import annotations

from celery_pool import AsyncResult, Pool, PoolOptions, TaskPool, TaskPoolExecutor
from celery_pool.aio import AsyncTaskPool
from celery_pool.ext.joblib import CeleryPoolBackend


def half(number: int) -> float:
    return number / 2


def names() -> None:
    TaskPool(4, processess=3)  # wrong
    AsyncTaskPool(4, processess=3)  # wrong
    AsyncTaskPool(4, callbacks_in="any")  # wrong
    Pool(2, soft_timeot=1)  # wrong
    Pool(2, callbacks_in="reaper")  # wrong
    TaskPoolExecutor(2, maxtasksperchild=1)  # wrong
    TaskPoolExecutor(2, reap_timeout=1)  # wrong
    CeleryPoolBackend(processes=2)  # wrong


def types(options: PoolOptions) -> None:
    TaskPool(4, timeout="1")  # wrong
    TaskPool(4, callbacks_in="nobody")  # wrong
    TaskPool(4, pickler="cloudpickle")  # wrong
    Pool(2, limit=1.5)  # wrong
    TaskPoolExecutor(2, max_bytes="1 GiB")  # wrong
    AsyncTaskPool(4, leave_on="SystemExit")  # wrong
    options["colour"] = "red"  # wrong


def results(pool: TaskPool, standard: Pool, executor: TaskPoolExecutor) -> None:
    text: str = pool.apply_async(half, (3,)).get()  # wrong
    result: AsyncResult[int] = pool.apply_async(half, (3,))  # wrong
    texts: list[str] = standard.map(half, [3])  # wrong
    standard.map(half, ["3"])  # wrong
    executor.submit(half, "3")  # wrong
    print(text, result, texts)


async def awaited(pool: AsyncTaskPool) -> None:
    text: str = await pool.submit(half, 3)  # wrong
    await pool.submit(half, "3")  # wrong
    await pool.submit(half, numbre=3)  # wrong
    print(text)
