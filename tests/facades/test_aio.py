"""AsyncTaskPool, under asyncio's own loop and under uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import random
import signal
import threading
import time
import warnings

import pytest

import tasks
from celery_pool import (
    CrashLoopError,
    PoolNotRunning,
    ResultDecodingError,
    SoftTimeLimitExceeded,
    TaskCancelled,
    TaskExpired,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery_pool.aio import AsyncTaskPool
from event_loops import new_pool, until
from support import DEADLINE, Background, Gate
from usage import SLACK, used

# ---- results


def test_submit(run, start_method):
    async def main():
        async with new_pool(context=start_method) as pool:
            assert await pool.submit(tasks.same, 5) == 5
            args, kwargs = await pool.submit(tasks.echo, 1, 2, fn=3, timeout=4, self=5)
            assert (args, kwargs) == ((1, 2), {"fn": 3, "timeout": 4, "self": 5})
            assert await pool.apply(tasks.echo, [1], {"x": 2}) == ((1,), {"x": 2})
            assert await pool.submit(tasks.pid) in pool.get_worker_pids()

    run(main)


def test_many_at_once_and_none_is_lost(run):
    async def main():
        async with new_pool(64) as pool:
            values = await asyncio.gather(*(pool.submit(tasks.same, i) for i in range(3000)))
            assert values == list(range(3000))
            assert pool.statistics().submitted == 3000

    run(main)


def test_tasks_long_and_short(run):
    """The loop sleeps between them: each end wakes it."""

    async def main():
        async with new_pool(64, processes=4) as pool:
            for _ in range(30):
                naps = [pool.submit(time.sleep, i / 1000) for i in (0, 1, 3, 0, 7)]
                await asyncio.gather(*naps, pool.submit(tasks.nothing))

    run(main)


@pytest.mark.parametrize("error", [ValueError("x"), StopAsyncIteration(), KeyError("k")])
def test_failure(run, error):
    async def main():
        async with new_pool() as pool:
            with pytest.raises(type(error)) as caught:
                await pool.submit(tasks.fail, type(error), *error.args)
            assert caught.value.args == error.args
            assert "tasks.py" in str(caught.value.__cause__)

    run(main)


def test_stop_iteration(run):
    """No coroutine can raise it."""

    async def main():
        async with new_pool() as pool:
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                await pool.submit(tasks.fail, StopIteration, 3)
            assert isinstance(caught.value.__cause__, StopIteration)

    run(main)


def test_what_cannot_be_pickled(run):
    async def main():
        async with new_pool() as pool:
            with pytest.raises(Exception, match="pickle"):
                await pool.submit(tasks.same, threading.Lock())
            with pytest.raises(TypeError, match="callable"):
                await pool.submit(5)
            for args in 5, "ab":
                with pytest.raises(TypeError, match="args must be a tuple"):
                    await pool.apply(tasks.same, args)
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_a_lost_worker(run):
    async def main():
        async with new_pool() as pool:
            results = await asyncio.gather(
                *(pool.submit(tasks.same, i) for i in range(20)),
                pool.submit(tasks.die),
                return_exceptions=True,
            )
            assert results[:20] == list(range(20))
            assert isinstance(results[20], WorkerLostError)
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def fail_while(flag: str) -> None:
    if os.path.exists(flag):
        raise ConnectionError(flag)


def test_a_crash_loop_and_a_new_start(run, tmp_path):
    flag = tmp_path / "flag"

    async def main():
        async with new_pool(
            limit=2, start_retries=3, initializer=fail_while, initargs=(str(flag),)
        ) as pool:
            flag.touch()
            results = await asyncio.gather(
                *(pool.submit(tasks.die) for _ in range(60)), return_exceptions=True
            )
            kinds = {type(result) for result in results}
            assert kinds == {WorkerLostError, CrashLoopError}
            with pytest.raises(CrashLoopError):
                await pool.submit(tasks.nothing)
            flag.unlink()
            await pool.start()
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_limits(run):
    async def main():
        async with new_pool(processes=1) as pool:
            with pytest.raises(SoftTimeLimitExceeded):
                await pool.apply(time.sleep, (60,), soft_timeout=0.05)
            with pytest.raises(TimeLimitExceeded):
                await pool.apply(time.sleep, (60,), timeout=0.05)
            sleeper = asyncio.create_task(pool.submit(time.sleep, 0.3))
            await asyncio.sleep(0.05)
            with pytest.raises(TaskExpired):
                await pool.apply(tasks.nothing, expires=0.01)
            await sleeper

    run(main)


@pytest.mark.parametrize("kills", [False, True])
def test_no_wake_up_is_lost(run, kills):
    """Without the background thread, which would come to the rescue."""

    async def main():
        numbers = random.Random(3)
        async with new_pool(64, max_restarts=10_000) as pool:
            pool._side.stop_reaper()
            for turn in range(400):
                naps = [numbers.choice((0, 0, 0, 1e-5, 1e-4, 1e-3)) for _ in range(turn % 9 + 1)]
                if kills and turn % 20 == 0:
                    for pid in pool.get_worker_pids():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                results = await asyncio.gather(
                    *(pool.submit(time.sleep, nap) for nap in naps), return_exceptions=True
                )
                assert len(results) == len(naps)
                assert kills or results == [None] * len(naps)
                if numbers.random() < 0.3:
                    await asyncio.sleep(0.001)  # it falls asleep

    run(main)


# ---- the loop is not held up


def test_the_loop_goes_on(run, tmp_path):
    """While the workers start, while a task runs, while the pool ends."""
    starting, running, ending = (Gate(tmp_path, name) for name in ("start", "run", "end"))

    async def goes_on(task) -> None:
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not task.done()

    async def main():
        pool = new_pool(
            initializer=tasks.initialize_slowly,
            initargs=(starting.path,),
            finalizer=functools.partial(tasks.pass_gate, ending.path),
        )
        start = asyncio.create_task(pool.start())
        await until(starting.waiting)
        await goes_on(start)
        starting.open()
        await start
        task = asyncio.create_task(pool.submit(tasks.pass_gate, running.path))
        await until(running.waiting)
        await goes_on(task)
        running.open()
        await task
        pool.close()
        join = asyncio.create_task(pool.join())
        await until(ending.waiting)
        await goes_on(join)
        ending.open()
        assert await join

    run(main)


def test_other_tasks_have_their_turn(run):
    """Tasks that end at once do not keep the loop to themselves."""

    async def main():
        turns = 0
        stop = False

        async def other() -> None:
            nonlocal turns
            while not stop:
                turns += 1
                await asyncio.sleep(0)

        async with new_pool() as pool:
            task = asyncio.create_task(other())
            for i in range(100):
                await pool.submit(tasks.same, i)
            stop = True
            await task
        assert turns >= 100

    run(main)


def test_at_rest(run):
    async def main():
        async with new_pool() as pool:
            await asyncio.gather(*(pool.submit(tasks.nothing) for _ in range(500)))
            for _ in range(20):  # until it is at rest
                before = time.thread_time(), used(0.1)
                if before[1] < 0.001:
                    break
            own = time.thread_time()
            measured = asyncio.get_running_loop().run_in_executor(None, used)
            await measured
            assert time.thread_time() - own < 0.02  # the loop's own thread slept, too

        return measured.result()

    assert run(main) < SLACK + 0.02


# ---- misuse


def test_not_started(run):
    async def main():
        pool = new_pool()
        with pytest.raises(PoolNotRunning):
            await pool.submit(tasks.nothing)
        with pytest.raises(PoolNotRunning):
            await anext(pool.imap_unordered(tasks.nothing, [1]))
        assert await pool.join()

    run(main)


def test_another_loop_and_no_loop(run):
    async def main():
        async with new_pool() as pool:

            async def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="another event loop"):
                    await pool.submit(tasks.nothing)
                with pytest.raises(RuntimeError, match="another event loop"):
                    await pool.terminate()

            await asyncio.to_thread(asyncio.run, elsewhere())
            coroutine = pool.submit(tasks.nothing)
            with pytest.raises(RuntimeError, match="no running event loop"):
                await asyncio.to_thread(coroutine.send, None)
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_options():
    with pytest.raises(TypeError, match="callbacks_in"):
        AsyncTaskPool(1, callbacks_in="any")
    with pytest.raises(TypeError):
        AsyncTaskPool(1, no_such_option=1)
    with pytest.raises(ValueError, match="buffersize"):
        new_pool().imap_unordered(tasks.same, [], buffersize=0)
    with pytest.raises(TypeError):
        new_pool().imap_unordered(tasks.same, 5)


def test_the_loop_was_closed_before_the_pool(run):
    """A warning, and nothing is left behind (the leak guard looks)."""

    async def main():
        pool = new_pool()
        await pool.start()
        assert await pool.submit(tasks.same, 1) == 1
        return pool

    left = [run(main)]
    with pytest.warns(ResourceWarning, match="unclosed running pool"):
        left.clear()
        gc.collect()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_pool_is_dropped_while_its_loop_runs(run, elsewhere):
    async def main():
        left = [new_pool()]
        await left[0].start()
        await left[0].submit(tasks.nothing)
        await asyncio.sleep(0.02)
        fd = left[0]._looking.fd

        def drop() -> None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                left.clear()
                gc.collect()
            assert "unclosed running pool" in str([w.message for w in caught])

        if elsewhere:
            await asyncio.to_thread(drop)
        else:
            drop()
        await asyncio.sleep(0.02)
        reader, writer = os.pipe()  # likely the same number: the loop has forgotten it
        if fd in (reader, writer):
            assert not asyncio.get_running_loop().remove_reader(fd)
        os.close(reader)
        os.close(writer)

    run(main)


def test_results_for_a_task_that_nobody_awaits(run):
    """The coroutine is dropped: its task ends without a word."""

    async def main():
        async with new_pool(processes=1) as pool:
            task = asyncio.create_task(pool.submit(time.sleep, 0.05))
            await asyncio.sleep(0.01)
            task.cancel()
            del task
            gc.collect()
            assert await pool.submit(tasks.same, 1) == 1
            with pytest.raises(TaskCancelled):
                raise TaskCancelled(1)

    run(main)


def test_a_coroutine_that_is_closed(run, gate):
    """Its task is killed, and nobody complains about an error that nobody wants."""

    async def main():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        async with new_pool() as pool:
            coroutine = pool.submit(tasks.pass_gate, gate.path)
            coroutine.send(None)
            await until(gate.waiting)
            coroutine.close()
            del coroutine
            await until(lambda: not pool.statistics().in_flight)
        gc.collect()
        assert complaints == []

    run(main)


def test_a_keyboard_interrupt_while_it_looks():
    """It comes out of the loop; when the loop is run again, the pool goes on."""
    loop = asyncio.new_event_loop()
    try:
        pool = new_pool()
        loop.run_until_complete(pool.start())
        interrupted = loop.create_task(pool.submit(tasks.InterruptsUnpickling))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait({interrupted}))
        rest = asyncio.gather(interrupted, pool.submit(tasks.same, 1), return_exceptions=True)
        error, value = loop.run_until_complete(asyncio.wait_for(rest, DEADLINE))
        assert isinstance(error, ResultDecodingError)
        assert value == 1
        loop.run_until_complete(pool.terminate())
    finally:
        loop.close()


def test_thread_of_callbacks(run):
    """No thread stands between: what ends the future runs in the loop's thread."""

    async def main():
        threads = set()
        async with new_pool() as pool:
            for _ in range(50):
                task = asyncio.ensure_future(pool.submit(tasks.nothing))
                task.add_done_callback(lambda _: threads.add(threading.get_ident()))
                await task
            await asyncio.sleep(0)
        assert threads == {threading.get_ident()}

    run(main)


def test_a_pool_in_a_loop_beside_the_main_thread(run):
    """A loop in a thread that is not the main one."""

    async def main():
        async with new_pool(context="forkserver") as pool:
            return await pool.submit(tasks.same, 3)

    assert Background(run, main).result(2 * DEADLINE) == 3
