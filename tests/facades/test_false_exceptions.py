"""An exception that is false in a truth test is an exception: nothing takes it for none."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import pytest

import tasks
from celery_pool import TaskPool
from celery_pool.aio import AsyncTaskPool
from celery_pool.foreign import outcome_of
from support import DEADLINE, Calls, Log


class Empty(Exception):
    def __len__(self) -> int:
        return 0


def empty(*args: Any) -> Any:
    raise Empty


def input_that_raises() -> Any:
    yield 1
    raise Empty


def test_of_a_task():
    failed = Calls()
    with TaskPool(2, context="fork") as pool:
        result = pool.apply_async(empty, errbacks=failed)
        with pytest.raises(Empty):
            result.get(DEADLINE)
        assert not result.successful()
        assert [type(error) for error, _ in failed.calls] == [Empty]
        assert pool.statistics().failed == 1


def test_of_a_foreign_result():
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_exception(Empty())
    success, error = outcome_of(future)
    assert not success
    assert type(error) is Empty
    failed = Calls()
    with TaskPool(2, context="fork") as pool:
        pool.add(future, errbacks=failed)
        pool.reap()
        assert [type(error) for error, _ in failed.calls] == [Empty]


def test_of_a_callback():
    log = Log()
    with TaskPool(2, context="fork", logger=log.logger) as pool:
        pool.apply_async(tasks.same, (1,), None, empty).get(DEADLINE)
        assert pool.statistics().callback_errors == 1
    assert log.kinds == [Empty]


def refuse() -> None:
    raise Empty


@pytest.mark.parametrize("name", ["initializer", "template_initializer"])
def test_of_an_initializer(name):
    pool = TaskPool(2, context="fork", **{name: refuse})  # type: ignore[arg-type]
    with pytest.raises(Empty):
        pool.run()


@pytest.mark.parametrize("chunksize", [1, 2])
def test_of_a_drop_in_pool(mp_pool, chunksize):
    pool = mp_pool()
    with pytest.raises(Empty):
        pool.apply(empty)
    for call in pool.map, pool.starmap:
        with pytest.raises(Empty):
            call(empty, [(1,), (2,)], chunksize)
    for imap in pool.imap, pool.imap_unordered:
        with pytest.raises(Empty):
            next(imap(empty, [1, 2], chunksize))
        results = imap(tasks.same, input_that_raises(), chunksize)
        with pytest.raises(Empty):
            list(results)
    failed = Calls()
    result = pool.map_async(empty, [1, 2], chunksize, None, failed)
    with pytest.raises(Empty):
        result.get(DEADLINE)
    assert not result.successful()
    assert [type(error) for (error,) in failed.calls] == [Empty]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_of_an_executor(executor, chunksize):
    one = executor()
    done: list[concurrent.futures.Future[Any]] = []
    for looked_at_before in False, True:
        future = one.submit(empty)
        if looked_at_before:
            future.add_done_callback(done.append)
        with pytest.raises(Empty):
            future.result(DEADLINE)
        assert type(future.exception(DEADLINE)) is Empty
        with pytest.raises(Empty):  # again
            future.result(DEADLINE)
    with pytest.raises(Empty):
        next(one.map(empty, [1, 2], chunksize=chunksize))
    with pytest.raises(Empty):
        list(one.map(tasks.same, input_that_raises(), chunksize=chunksize))
    finished, _ = concurrent.futures.wait(
        [one.submit(empty)], DEADLINE, concurrent.futures.FIRST_EXCEPTION
    )
    assert type(finished.pop().exception()) is Empty

    async def main() -> None:
        with pytest.raises(Empty):
            await asyncio.get_running_loop().run_in_executor(one, empty)

    asyncio.run(main())


def test_of_arguments(executor):
    argument = tasks.raises_when_pickled(Empty)
    with pytest.raises(Empty):
        executor().submit(tasks.same, argument).result(DEADLINE)


def test_with_asyncio():
    async def main() -> None:
        async with AsyncTaskPool(4, processes=2, context="fork") as pool:
            with pytest.raises(Empty):
                await pool.submit(empty)
            with pytest.raises(Empty):
                async for _ in pool.imap_unordered(empty, [1, 2]):
                    pass
            with pytest.raises(Empty):
                async for _ in pool.imap_unordered(tasks.same, input_that_raises()):
                    pass
            errors = pool.imap_unordered(empty, [1], return_exceptions=True)
            assert [type(error) async for error in errors] == [Empty]

    asyncio.run(main())


def test_with_joblib():
    joblib = pytest.importorskip("joblib")
    from celery_pool.ext.joblib import CeleryPoolBackend

    with joblib.parallel_config(CeleryPoolBackend(), n_jobs=2), pytest.raises(Empty):
        joblib.Parallel()(joblib.delayed(empty)(i) for i in range(4))
