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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

import tasks
from celery_pool import (
    CrashLoopError,
    PayloadTooLarge,
    PoolClosed,
    PoolNotRunning,
    PoolRunning,
    PoolTerminated,
    ResultDecodingError,
    SoftTimeLimitExceeded,
    TaskCancelled,
    TaskExpired,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery_pool.aio import AsyncTaskPool
from support import DEADLINE, Background, Gate
from usage import SLACK, used


def new_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.fixture(scope="module", autouse=True)
def first_uvloop() -> None:
    """The first one makes a pipe that the process keeps."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(params=[asyncio.new_event_loop, new_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine function in a loop of that kind; nobody may hang."""

    def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(4 * DEADLINE):
                return await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(bounded())

    return run


def new_pool(limit: int | None = 8, processes: int = 2, **options: Any) -> AsyncTaskPool:
    options.setdefault("context", "fork")
    return AsyncTaskPool(limit, processes=processes, **options)


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)


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


def test_a_crash_loop(run):
    async def main():
        async with new_pool(limit=2, max_restarts=3) as pool:
            results = await asyncio.gather(
                *(pool.submit(tasks.die) for _ in range(60)), return_exceptions=True
            )
            kinds = {type(result) for result in results}
            assert kinds == {WorkerLostError, CrashLoopError}
            with pytest.raises(CrashLoopError):
                await pool.submit(tasks.nothing)

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


# ---- backpressure


def test_the_limit_makes_wait_in_order(run, gate, tmp_path):
    async def main():
        trace = tmp_path / "trace"
        async with new_pool(1, 1) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            rest = [
                asyncio.create_task(pool.submit(tasks.append, str(trace), str(i)))
                for i in range(20)
            ]
            await asyncio.sleep(0.01)
            assert pool.full()
            assert pool.statistics().submitted == 1
            gate.open()
            await asyncio.gather(first, *rest)
            assert trace.read_text().split() == [str(i) for i in range(20)]
            assert pool.statistics().submitted == 21

    run(main)


def test_cancelled_while_it_waits_for_a_slot(run, gate):
    async def main():
        async with new_pool(2) as pool:
            first = [asyncio.create_task(pool.submit(tasks.pass_gate, gate.path)) for _ in range(2)]
            await until(lambda: len(gate.waiting()) == 2, "two at the gate")
            late = [asyncio.create_task(pool.submit(tasks.same, i)) for i in range(20)]
            await asyncio.sleep(0.01)
            for task in late[::2]:
                task.cancel()
            gate.open()
            results = await asyncio.gather(*late, return_exceptions=True)
            assert results[1::2] == list(range(1, 20, 2))
            assert all(isinstance(r, asyncio.CancelledError) for r in results[::2])
            await asyncio.gather(*first)
            assert pool.statistics().submitted == 12
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_cancelled_in_the_moment_it_gets_a_slot(run, gate):
    """The slot goes to the next one."""

    async def main():
        async with new_pool(1, 1) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            second = asyncio.create_task(pool.submit(tasks.same, 2))
            third = asyncio.create_task(pool.submit(tasks.same, 3))
            await asyncio.sleep(0.01)
            grant = pool._slots.grant

            def grant_and_cancel() -> None:
                grant()
                second.cancel()

            pool._slots.grant = grant_and_cancel
            gate.open()
            await first
            assert await third == 3
            with pytest.raises(asyncio.CancelledError):
                await second
            pool._slots.grant = grant

    run(main)


def test_all_who_wait_are_cancelled_and_then_one_comes(run, gate):
    async def main():
        async with new_pool(1, 1) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            waiting = [asyncio.create_task(pool.submit(tasks.same, i)) for i in range(5)]
            await asyncio.sleep(0.01)
            gate.open()
            await until(lambda: not pool._side.in_flight or first.done())
            for task in waiting:
                task.cancel()
            await asyncio.gather(first, *waiting, return_exceptions=True)
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_max_bytes(run):
    async def main():
        async with new_pool(None, max_bytes=5000) as pool:
            data = [bytes([i]) * 3000 for i in range(50)]  # one at a time
            got = await asyncio.gather(*(pool.submit(tasks.same, d) for d in data))
            assert got == data
            with pytest.raises(PayloadTooLarge):
                await pool.submit(tasks.same, bytes(6000))
            streamed = [value async for value in pool.imap_unordered(tasks.same, data)]
            assert sorted(streamed) == data

    run(main)


def test_max_bytes_makes_wait_in_order_and_at_rest(run, gate):
    async def main():
        order = []

        async def submit(i):
            await pool.submit(tasks.same, bytes([i]) * 3000)
            order.append(i)

        async with new_pool(None, processes=1, max_bytes=5000) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            waiting = []
            for i in range(50):
                waiting.append(asyncio.create_task(submit(i)))
                await asyncio.sleep(0)
            for _ in range(20):  # until it is at rest
                before = time.thread_time()
                await asyncio.sleep(0.1)
                if time.thread_time() - before < 0.001:
                    break
            before = time.thread_time()
            await asyncio.sleep(0.5)
            assert time.thread_time() - before < 0.01
            gate.open()
            await first
            await asyncio.gather(*waiting)
            assert order == list(range(50))

    run(main)


def test_a_stream_keeps_its_place_before_others(run, gate):
    """What waits for room is not sent to the end when that was not enough."""

    async def main():
        order = []

        async def stream():
            async for value in pool.imap_unordered(tasks.same, [bytes(1500)]):
                order.append(len(value))

        async def submit():
            order.append(len(await pool.submit(tasks.same, bytes(600))))

        async with new_pool(None, processes=1, max_bytes=2000) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            queued = asyncio.create_task(pool.submit(tasks.same, bytes(1000)))
            await asyncio.sleep(0)
            waiting = [asyncio.create_task(stream())]
            await until(lambda: pool._slots.waiting)
            waiting += [asyncio.create_task(submit()) for _ in range(3)]
            await until(lambda: len(pool._slots.waiting) == 4)
            gate.open()
            await asyncio.gather(first, queued, *waiting)
        assert order == [1500, 600, 600, 600]

    run(main)


def test_the_limit_may_be_raised(run, gate):
    async def main():
        async with new_pool(2) as pool:
            waiting = [
                asyncio.create_task(pool.submit(tasks.pass_gate, gate.path)) for _ in range(4)
            ]
            await until(lambda: len(gate.waiting()) == 2)
            pool.limit = 4
            assert pool.limit == 4
            pool.grow(2)
            await until(lambda: len(gate.waiting()) == 4)
            gate.open()
            await asyncio.gather(*waiting)

    run(main)


# ---- cancelling


def test_cancelling_kills_what_runs(run, gate):
    async def main():
        async with new_pool(processes=1) as pool:
            task = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            [pid] = gate.waiting()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await pool.submit(tasks.pid) != pid  # perhaps while the other one still dies
            await until(lambda: pool.statistics().exits.get("terminated") == 1)

    run(main)


def test_cancelling_lets_it_run(run, gate):
    async def main():
        async with new_pool(processes=1, kill_on_cancel=False) as pool:
            task = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            [pid] = gate.waiting()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()
            assert await pool.submit(tasks.pid) == pid

    run(main)


def test_cancelling_takes_back_what_has_not_started(run, gate, tmp_path):
    async def main():
        trace = tmp_path / "trace"
        async with new_pool(processes=1) as pool:
            first = asyncio.create_task(pool.submit(tasks.pass_gate, gate.path))
            await until(gate.waiting)
            second = asyncio.create_task(pool.submit(tasks.append, str(trace), "ran"))
            await until(lambda: pool.statistics().in_flight == 2)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.open()
            await first
            assert pool.statistics().cancelled == 1
        assert not trace.exists()

    run(main)


def test_asyncio_timeout(run):
    async def main():
        async with new_pool(processes=1) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.submit(time.sleep, 60)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.submit(time.sleep, 60), 0.05)
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_a_task_group(run):
    async def main():
        async with new_pool() as pool:
            start = time.monotonic()
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(pool.submit(time.sleep, 60))
                    group.create_task(pool.submit(tasks.fail, ValueError, "x"))
            assert [type(error) for error in caught.value.exceptions] == [ValueError]
            assert await pool.submit(tasks.same, 1) == 1
        assert time.monotonic() - start < DEADLINE

    run(main)


def test_random_cancels_account_for_every_slot(run):
    async def main():
        async with new_pool(4, kill_on_cancel=False) as pool:
            for seed in range(40):
                batch = [asyncio.create_task(pool.submit(tasks.same, i)) for i in range(30)]
                for _ in range(seed % 7):
                    await asyncio.sleep(0)
                for task in batch[seed % 3 :: 3]:
                    task.cancel()
                results = await asyncio.gather(*batch, return_exceptions=True)
                for i, result in enumerate(results):
                    assert result == i or isinstance(result, asyncio.CancelledError)
            assert pool._slots.granted == 0
            assert not pool._slots.waiting
            await until(lambda: pool.statistics().in_flight == 0)

    run(main)


# ---- imap_unordered


async def numbers(count: int, error: Exception | None = None) -> AsyncIterator[int]:
    for i in range(count):
        if i % 3 == 0:
            await asyncio.sleep(0)
        yield i
    if error is not None:
        raise error


@pytest.mark.parametrize("source", [range, numbers], ids=["plain", "asynchronous"])
@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
def test_imap_unordered(run, source, buffersize):
    async def main():
        async with new_pool() as pool:
            stream = pool.imap_unordered(tasks.same, source(300), buffersize=buffersize)
            assert sorted([value async for value in stream]) == list(range(300))
            assert [v async for v in pool.imap_unordered(tasks.same, source(0))] == []

    run(main)


def test_imap_yields_what_is_there(run, gate):
    async def main():
        async with new_pool() as pool:
            jobs = [(tasks.pass_gate, gate.path), *((tasks.same, i) for i in range(5))]
            stream = pool.imap_unordered(tasks_call, jobs)
            assert sorted([await anext(stream) for _ in range(5)]) == list(range(5))
            gate.open()
            assert await anext(stream) is None
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main)


def tasks_call(item: tuple[Callable[..., Any], Any]) -> Any:
    return item[0](*item[1:])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_imap_is_lazy(run, asynchronous):
    async def main():
        taken = 0

        def plain() -> Iterator[int]:
            nonlocal taken
            while True:
                taken += 1
                yield taken

        async def asynchronously() -> AsyncIterator[int]:
            for value in plain():
                yield value

        async with new_pool(64) as pool:
            source = asynchronously() if asynchronous else plain()
            stream = pool.imap_unordered(tasks.same, source, buffersize=5)
            await asyncio.sleep(0.01)
            assert taken == 0
            for seen in range(1, 30):
                await anext(stream)
                await asyncio.sleep(0.001)
                assert taken <= seen + 5 + asynchronous
            await stream.aclose()

    run(main)


@pytest.mark.parametrize("source", [range, numbers], ids=["plain", "asynchronous"])
def test_imap_failure(run, source, gate):
    async def main():
        async with new_pool(processes=1) as pool:
            with pytest.raises(ZeroDivisionError):
                async for _ in pool.imap_unordered(invert, source(5)):
                    pass
            await until(lambda: pool.statistics().in_flight == 0)
            stream = pool.imap_unordered(invert, source(5), return_exceptions=True)
            results = [value async for value in stream]
            assert sorted(r for r in results if isinstance(r, float)) == [0.25, 1 / 3, 0.5, 1.0]
            assert [type(r) for r in results if not isinstance(r, float)] == [ZeroDivisionError]

    run(main)


def invert(value: int) -> float:
    return 1 / value


def test_imap_the_source_fails(run):
    async def main():
        def plain() -> Iterator[int]:
            yield from range(3)
            raise KeyError("plain")

        async with new_pool() as pool:
            for source in (plain(), numbers(3, KeyError("asynchronous"))):
                with pytest.raises(KeyError):
                    async for _ in pool.imap_unordered(tasks.same, source):
                        pass
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


@pytest.mark.parametrize("how", ["aclose", "collected", "cancelled"])
def test_leaving_imap_cancels_the_rest(run, gate, how):
    async def main():
        async with new_pool(processes=1) as pool:

            async def consume() -> None:
                items = [(tasks.same, 0)] + [(tasks.pass_gate, gate.path)] * 5
                stream = pool.imap_unordered(tasks_call, items)
                async for _ in stream:
                    if how != "cancelled":
                        break
                if how == "aclose":
                    await stream.aclose()

            consumer = asyncio.create_task(consume())
            if how == "cancelled":
                await until(gate.waiting)
                consumer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await consumer
            del consumer
            gc.collect()
            await until(lambda: pool.statistics().in_flight == 0, "nothing in flight")
            statistics = pool.statistics()
            assert statistics.submitted == 6
            assert statistics.succeeded == 1
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_two_streams_and_submits_share_the_pool(run):
    async def main():
        async with new_pool(3, 2) as pool:

            async def consume(count: int) -> int:
                return sum([v async for v in pool.imap_unordered(tasks.same, range(count))])

            singles = [pool.submit(tasks.same, i) for i in range(100)]
            results = await asyncio.gather(consume(200), consume(300), *singles)
            assert results == [sum(range(200)), sum(range(300)), *range(100)]

    run(main)


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
        await asyncio.sleep(0.05)
        assert not start.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await start
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
