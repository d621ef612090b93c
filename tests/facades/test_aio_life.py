"""AsyncTaskPool: start, close, join, terminate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

import pytest

import tasks
from celery_pool import (
    PoolClosed,
    PoolNotRunning,
    PoolRunning,
    PoolTerminated,
    ResultDecodingError,
    WorkerLostError,
)
from event_loops import new_pool, until
from support import DEADLINE

# ---- life


def test_leaving_waits_for_all(run):
    async def main():
        async with new_pool() as pool:
            running = [asyncio.create_task(pool.submit(time.sleep, 0.1)) for _ in range(4)]
            await asyncio.sleep(0)
        assert all(task.done() for task in running)
        with pytest.raises(PoolClosed):
            await pool.submit(tasks.nothing)
        await asyncio.gather(*running)

    run(main)


def test_an_error_ends_it_at_once(run, gate):
    async def main():
        start = time.monotonic()
        with pytest.raises(KeyError):
            async with new_pool(2) as pool:
                waiting = [
                    asyncio.create_task(pool.submit(tasks.pass_gate, gate.path)) for _ in range(6)
                ]
                await until(lambda: len(gate.waiting()) == 2)
                raise KeyError
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {PoolTerminated}
        assert time.monotonic() - start < DEADLINE

    run(main)


def test_close_tells_those_who_wait_for_a_slot(run, gate):
    async def main():
        pool = new_pool(2)
        await pool.start()
        waiting = [asyncio.create_task(pool.submit(tasks.pass_gate, gate.path)) for _ in range(4)]
        await until(lambda: len(gate.waiting()) == 2)
        with pytest.raises(ValueError, match="close"):
            await pool.join()
        pool.close()
        assert not await pool.join(0.05)
        gate.open()
        assert await pool.join()
        assert await pool.join()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[:2] == [None, None]
        assert [type(result) for result in results[2:]] == [PoolClosed, PoolClosed]

    run(main)


def test_terminate(run, gate):
    async def main():
        pool = new_pool(2)
        await pool.terminate()
        await pool.start()
        with pytest.raises(PoolRunning):
            await pool.start()
        task = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
        await until(gate.waiting)
        await pool.terminate()
        await pool.terminate()
        with pytest.raises(PoolTerminated):
            await task
        with pytest.raises(PoolTerminated):
            await pool.submit(tasks.nothing)

    run(main)


def test_started_again(run):
    pool = new_pool()

    async def main():
        async with pool:
            assert await pool.submit(tasks.same, 1) == 1
        async with pool:
            values = [value async for value in pool.imap_unordered(tasks.same, range(20))]
            assert sorted(values) == list(range(20))

    run(main)
    run(main)  # by another loop


def test_start_fails(run, start_method):
    async def main():
        pool = new_pool(initializer=tasks.fail, initargs=(ValueError, "no"), context=start_method)
        with pytest.raises(ValueError, match="no"):
            await pool.start()
        with pytest.raises(PoolNotRunning):
            await pool.submit(tasks.nothing)

    run(main)


def test_start_fails_again(run, tmp_path, start_method):
    """What is submitted after a second start that failed is refused, and the loop
    has let go of the first run's descriptor."""
    flag = tmp_path / "flag"

    async def main():
        loop = asyncio.get_running_loop()
        pool = new_pool(initializer=tasks.fail_if_exists, initargs=(flag,), context=start_method)
        async with pool:
            watched = pool._looking.fd
            assert await pool.submit(tasks.same, 1) == 1
        flag.touch()
        with pytest.raises(ValueError, match="there it is"):
            await pool.start()
        assert not loop.remove_reader(watched)
        with pytest.raises(PoolNotRunning):
            await pool.submit(tasks.same, 1)
        await asyncio.sleep(0.01)  # whatever the loop has been asked to do
        await pool.terminate()
        flag.unlink()
        async with pool:
            assert await pool.submit(tasks.same, 2) == 2

    run(main)


def test_start_is_cancelled(run, gate, start_method):
    async def main():
        pool = new_pool(
            initializer=tasks.initialize_slowly, initargs=(gate.path,), context=start_method
        )
        start = asyncio.create_task(pool.start())
        await asyncio.sleep(0.05)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start  # though its initializers have not ended
        assert pool.get_worker_pids() == []

    run(main)


def test_leaving_is_cancelled(run, gate):
    async def main():
        async def body() -> None:
            async with new_pool(2) as pool:
                asyncio.create_task(pool.submit(tasks.pass_gate, gate.path)).add_done_callback(
                    lambda task: task.exception()
                )
                await until(gate.waiting)

        task = asyncio.create_task(body())
        await until(gate.waiting)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_workers_are_killed_all_the_time(run):
    async def main():
        async with new_pool(32, max_restarts=10_000) as pool:
            stop = False

            async def kill() -> None:
                while not stop:
                    for pid in pool.get_worker_pids():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    await asyncio.sleep(0.03)

            killer = asyncio.create_task(kill())
            results: list[Any] = []
            stream = pool.imap_unordered(tasks.same, range(20_000), return_exceptions=True)
            async for value in stream:
                results.append(value)
            stop = True
            await killer
            values = [value for value in results if isinstance(value, int)]
            assert len(results) == 20_000
            assert len(set(values)) == len(values)
            assert all(isinstance(v, (int, WorkerLostError)) for v in results)

    run(main)


def test_terminated_inside_the_block(run, gate):
    async def main():
        async with new_pool(2) as pool:
            task = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            await pool.terminate()
        with pytest.raises(PoolTerminated):
            await task

    run(main)


def test_an_interrupt_leaves_the_loop_and_the_pool_goes_on():
    """A KeyboardInterrupt while a result is unpickled, in the loop's thread."""

    async def main() -> None:
        async with new_pool(context="fork") as pool:
            with pytest.raises(ResultDecodingError):  # the second time it is the task's
                await pool.submit(tasks.only_here, KeyboardInterrupt)
            assert await pool.submit(tasks.same, 1) == 1

    with asyncio.Runner() as runner:
        task = runner.get_loop().create_task(main())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(task)
        runner.get_loop().run_until_complete(task)
