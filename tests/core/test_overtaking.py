"""A stream that never ends: nobody waits behind a task that runs long while another worker
takes its turns, and a submitter that is busy between its submissions delays no callback."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import Future

import pytest

import tasks
from celery_pool import Pool, TaskPoolExecutor
from celery_pool.aio import AsyncTaskPool
from support import DEADLINE, Calls, Gate

SHORT = 20e-6  # seconds


def spin(seconds: float = SHORT) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def stream_until(submit, enough) -> None:
    """Never pauses: no worker ever has nothing to do."""
    end = time.monotonic() + DEADLINE
    while not enough():
        assert time.monotonic() < end, "some wait behind the long task"
        for _ in range(20):
            submit()


@pytest.mark.parametrize("limit", [8, 64, 1000])
@pytest.mark.parametrize("processes, long", [(2, 1), (4, 2)])
def test_task_pool(pool, gate, processes, long, limit):
    p = pool(limit, processes=processes)
    for _ in range(long):
        p.apply_async(tasks.pass_gate, (gate.path,))
    first = [p.apply_async(spin) for _ in range(limit - long)]  # some are behind a long one
    stream_until(lambda: p.apply_async(spin), lambda: all(r.ready() for r in first))
    assert len(gate.await_tasks(long)) == long
    gate.open()


def test_four_submitters(pool, gate):
    p = pool(64, processes=2)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    slowest = [0.0] * 4
    stop = threading.Event()
    done = Calls()

    def submit(i):
        while not stop.is_set():
            p.apply_async(spin, callbacks=[done], meta=i)

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    first = [p.apply_async(spin) for _ in range(64)]
    for result in first:
        result.wait(DEADLINE)
    stop.set()
    for thread in threads:
        thread.join()
    assert all(r.ready() for r in first)
    gate.open()


def test_long_tasks_that_come_later(pool, gate):
    """Each of them holds up those behind it anew."""
    p = pool(64, processes=3)
    for number in range(1, 3):
        p.apply_async(tasks.pass_gate, (gate.path,))
        first = [p.apply_async(spin) for _ in range(60)]
        stream_until(lambda: p.apply_async(spin), lambda f=first: all(r.ready() for r in f))
        gate.await_tasks(number)
    gate.open()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_one_that_was_overtaken_takes_tasks_again(pool, tmp_path):
    p = pool(64, processes=2)
    pids = set(p.get_worker_pids())
    for round_ in range(3):
        gate = Gate(tmp_path, f"gate{round_}")
        long = p.apply_async(tasks.pass_gate, (gate.path,))
        first = [p.apply_async(spin) for _ in range(60)]
        stream_until(lambda: p.apply_async(spin), lambda f=first: all(r.ready() for r in f))
        gate.open()
        long.get(DEADLINE)
        seen: set[int] = set()
        stream_until(
            lambda s=seen: p.apply_async(tasks.pid, callbacks=[lambda pid, meta: s.add(pid)]),
            lambda s=seen: s == pids,
        )


def test_executor(gate):
    with TaskPoolExecutor(2, limit=64, mp_context="fork") as executor:
        executor.submit(tasks.pass_gate, gate.path)
        first = [executor.submit(spin) for _ in range(60)]
        stream_until(lambda: executor.submit(spin), lambda: all(f.done() for f in first))
        gate.open()


def test_imap_unordered(gate):
    """Endless input; the first results after the long task's start are all there."""
    with Pool(2, context="fork") as p:
        p.apply_async(tasks.pass_gate, (gate.path,))
        gate.await_tasks()
        end = time.monotonic() + DEADLINE
        seen: set[int] = set()
        for i in p.imap_unordered(tasks.same, range(10**9), buffersize=64):
            seen.add(i)
            if seen >= set(range(200)):
                break
            assert time.monotonic() < end, "some wait behind the long task"
        gate.open()


def test_asyncio(gate):
    async def main():
        async with AsyncTaskPool(64, processes=2, context="fork") as p:
            long = asyncio.ensure_future(p.submit(tasks.pass_gate, gate.path))
            await asyncio.sleep(0)
            first = [asyncio.ensure_future(p.submit(spin)) for _ in range(60)]

            async def others():
                while not all(f.done() for f in first):
                    await p.submit(spin)

            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*(others() for _ in range(20)))
            gate.open()
            await long

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["any", "caller"])
def test_a_busy_submitter_runs_callbacks(pool, mode):
    """No other thread gets the GIL, so it is its own submissions that run them, and not
    only every 128th."""
    p = pool(1000, processes=2, callbacks_in=mode)
    p.apply_async(spin).get(DEADLINE)
    calls = Calls()
    late = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(4 * DEADLINE)
    try:
        for i in range(100):
            p.apply_async(spin, callbacks=[calls])
            late.append(i + 1 - len(calls.values))
            spin(0.003)
    finally:
        sys.setswitchinterval(interval)
    # but for what the machine delays: the last one or two
    assert sorted(late)[50] <= 3


def test_a_busy_submitter_and_the_reaper_alone(pool):
    """What callbacks_in says holds."""
    p = pool(1000, processes=2, callbacks_in="reaper")
    seen = set()
    for _ in range(50):
        p.apply_async(spin, callbacks=[lambda r, m: seen.add(threading.current_thread().name)])
        spin(0.001)
    p.close()
    assert p.join(DEADLINE)
    assert len(seen) == 1
    assert threading.current_thread().name not in seen


def test_only_workers_overtake(pool, gate):
    """What ends without a worker (results of other pools, tasks that are cancelled) says
    nothing of turns: a worker alone keeps what it was given."""
    p = pool(None, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    for _ in range(20):
        p.apply_async(tasks.nothing)
    spin(0.005)  # so that its task has run for long
    for _ in range(50):
        done: Future[None] = Future()
        done.set_result(None)
        p.add(done)
        assert p.apply_async(tasks.nothing).cancel()
    p.reap()
    assert p._core.channels[0].load == 21
    gate.open()
