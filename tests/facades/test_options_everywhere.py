"""What an option does, it does for every pool that has it."""

from __future__ import annotations

import asyncio
import time

import cloudpickle
import joblib
import pytest

import tasks
from celery_pool import Pool, TaskPoolExecutor, TimeLimitExceeded
from celery_pool.aio import AsyncTaskPool
from celery_pool.ext.joblib import CeleryPoolBackend
from support import DEADLINE, Log, run_program


def of_pool(function, argument, context, **options):
    with Pool(2, context=context, **options) as pool:
        return pool.apply(function, (argument,)), pool.statistics(), pool.get_worker_pids()


def of_executor(function, argument, context, **options):
    with TaskPoolExecutor(2, context, **options) as executor:
        assert executor.get_worker_pids() == []
        value = executor.submit(function, argument).result(DEADLINE)
        return value, executor.statistics(), executor.get_worker_pids()


def of_asyncio(function, argument, context, **options):
    async def main():
        async with AsyncTaskPool(None, processes=2, context=context, **options) as pool:
            value = await pool.submit(function, argument)
            return value, pool.statistics(), pool.get_worker_pids()

    return asyncio.run(main())


def of_joblib(function, argument, context, **options):
    backend = CeleryPoolBackend(context=context, **options)
    assert (backend.get_worker_pids(), backend.statistics()) == ([], None)
    with joblib.Parallel(n_jobs=2, backend=backend) as parallel:
        value = parallel([joblib.delayed(function)(argument)])[0]
        return value, backend.statistics(), backend.get_worker_pids()


EVERYWHERE = pytest.mark.parametrize(
    "call", [of_pool, of_executor, of_asyncio, of_joblib], ids=lambda call: call.__name__
)


@EVERYWHERE
def test_a_closure_by_cloudpickle_and_what_is_going_on(call, start_method):
    factor = 3
    value, statistics, pids = call(
        lambda x: factor * x, 14, start_method, pickler=cloudpickle, leave_timeout=5
    )
    assert value == 42
    assert statistics.submitted >= 1
    assert 1 <= len(pids) <= 2  # an executor does not wait for all


@EVERYWHERE
def test_a_time_limit_and_the_logger_that_tells_of_it(call):
    log = Log()
    with pytest.raises(TimeLimitExceeded):
        call(time.sleep, 60, "fork", timeout=0.1, logger=log.logger)
    assert any("past its time limit" in message for message in log.messages)


@EVERYWHERE
def test_what_is_done_in_the_template_is_there_in_the_workers(call):
    before = {"template_initializer": tasks.initialize, "template_initargs": ("in the template",)}
    assert call(tasks.initialized_with, "here", "fork", **before)[0] == [("in the template",)]


LATE = """
import cloudpickle
from celery_pool import Pool, TaskPoolExecutor

if __name__ == "__main__":
    with Pool(2, context={method!r}, pickler=cloudpickle) as pool:
        with TaskPoolExecutor(2, {method!r}, pickler=cloudpickle) as executor:
            factor = 2

            def late(x):
                return x * factor

            print(pool.map(late, range(3)), list(pool.imap(lambda x: late(x) + 1, range(3))))
            print(executor.submit(late, 21).result(), list(executor.map(late, range(3))))
"""


def test_functions_of_main_that_came_after_the_pool(start_method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(LATE.format(method=start_method))
    done = run_program(script, timeout=50)
    assert (done.stdout, done.stderr) == ("[0, 2, 4] [1, 3, 5]\n42 [0, 2, 4]\n", "")
