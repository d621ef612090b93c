"""Who does not want a pool any more while it starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading

import pytest

import tasks
from celery_pool import PoolTerminated, TaskPool
from celery_pool.aio import AsyncTaskPool
from guards import wait_until
from support import DEADLINE, Background, is_gone

METHODS = ["fork", "forkserver", "spawn"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["terminate", "close"])
def test_a_start_is_ended_by_another_thread(gate, method, end):
    p = TaskPool(2, processes=2, context=method, initializer=tasks.pass_gate, initargs=(gate.path,))
    start = Background(p.run)
    pids = gate.await_tasks(2)
    getattr(p, end)()
    with pytest.raises(PoolTerminated, match="while it started"):
        start.result()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE)
    assert p.get_worker_pids() == []
    gate.open()
    with p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_a_start_is_ended_by_a_signal_handler(gate):
    p = TaskPool(2, processes=2, initializer=tasks.pass_gate, initargs=(gate.path,))
    previous = signal.signal(signal.SIGUSR2, lambda *_: p.terminate())

    def interrupt():
        gate.await_tasks(2)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(PoolTerminated, match="while it started"):
            p.run()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, previous)
    gate.open()
    with p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_cancelled_start_ends_at_once(gate, method):
    """Its initializers would wait for ever."""

    async def main():
        p = AsyncTaskPool(
            2, processes=2, context=method, initializer=tasks.pass_gate, initargs=(gate.path,)
        )
        start = asyncio.ensure_future(p.start())
        pids = await asyncio.to_thread(gate.await_tasks, 2)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        return pids

    for pid in asyncio.run(main()):
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


def test_terminate_wherever_a_start_is():
    """At any moment of it: the pool has started and is terminated, or has not."""
    p = TaskPool(2, processes=2)
    for delay in range(40):
        timer = threading.Timer(delay / 2000, p.terminate)
        timer.start()
        with contextlib.suppress(PoolTerminated):
            p.run()
        timer.join()
        p.terminate()
        assert p.get_worker_pids() == []
