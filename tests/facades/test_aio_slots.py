"""AsyncTaskPool: who waits for a slot, and who is cancelled."""

from __future__ import annotations

import asyncio
import time

import pytest

import tasks
from celery_pool import (
    PayloadTooLarge,
)
from event_loops import new_pool, until
from support import DEADLINE

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
