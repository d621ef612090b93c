"""`workers()` and `healthy()`: what a pool says of itself while it runs."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

import tasks
from celery_pool import Pool, TaskPool, TaskPoolExecutor, WrongProcess
from celery_pool.aio import AsyncTaskPool
from guards import wait_until
from support import DEADLINE


def busy(pool):
    return [worker for worker in pool.workers() if worker.state == "busy"]


def test_what_a_worker_runs(pool, gate, start_method):
    one = pool(8, processes=2)
    idle = one.workers()
    assert [worker.index for worker in idle] == [0, 1]
    assert {worker.pid for worker in idle} == set(one.get_worker_pids())
    assert {worker.state for worker in idle} == {"idle"}
    assert all(worker.tid is None and worker.running_for is None for worker in idle)
    assert all(worker.rss > 1 << 20 and worker.age > 0 for worker in idle)

    results = [one.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(6)]
    pids = gate.await_tasks(2)
    wait_until(lambda: len(busy(one)) == 2, DEADLINE)
    at_work = busy(one)
    assert {worker.pid for worker in at_work} == set(pids)
    assert {worker.function for worker in at_work} == {"tasks.pass_gate"}
    assert {worker.tid for worker in at_work} <= {result.tid for result in results}
    assert sum(worker.queued for worker in at_work) == 4
    earlier = {worker.tid: worker.running_for for worker in at_work}
    assert all(w.running_for > earlier[w.tid] >= 0 for w in busy(one))

    gate.open()
    for result in results:
        result.get(DEADLINE)
    wait_until(lambda: sum(worker.done for worker in one.workers()) == 6, DEADLINE)
    wait_until(lambda: not busy(one), DEADLINE)


def test_a_worker_that_leaves(pool, gate):
    one = pool(4, processes=2)
    result = one.apply_async(tasks.pass_gate, (gate.path,))
    (pid,) = gate.await_tasks()
    one.shrink()
    one.renew()
    wait_until(lambda: [w.state for w in one.workers() if w.pid == pid] == ["leaving"], DEADLINE)
    gate.open()
    result.get(DEADLINE)
    wait_until(lambda: pid not in {w.pid for w in one.workers()}, DEADLINE)


def test_a_spare(pool):
    one = pool(1, processes=1, maxtasksperchild=2)
    one.apply_async(tasks.same, (1,)).get(DEADLINE)
    wait_until(lambda: "spare" in {worker.state for worker in one.workers()}, DEADLINE)


def test_before_and_after_a_run():
    one = TaskPool(2)
    assert one.workers() == []
    assert not one.healthy()
    assert one.healthy().reasons == ("the pool is not running",)
    one.run()
    one.terminate()
    assert one.workers() == []
    assert one.healthy().reasons == ("the pool is terminated",)


def test_healthy_or_why_not(pool, tmp_path):
    failing = tmp_path / "failing"
    one = pool(2, processes=2, initializer=tasks.fail_if_exists, initargs=(failing,))
    assert one.healthy()
    assert one.healthy().reasons == ()
    failing.touch()
    for pid in one.get_worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(one.healthy().reasons) == 2, DEADLINE)
    starts, ready = one.healthy().reasons
    assert "could be started" in starts
    assert ready == "0 of 2 workers can take tasks"
    failing.unlink()
    wait_until(lambda: one.healthy(), DEADLINE)


def test_through_every_door(gate):
    with Pool(1) as standard:
        standard.apply(tasks.same, (1,))
        assert len(standard.workers()) == 1
        assert standard.healthy()
        assert "tasks.same" in standard.statistics(functions=True).functions
    with TaskPoolExecutor(1) as executor:
        executor.submit(tasks.same, 1).result()
        assert len(executor.workers()) == 1
        assert executor.healthy()
        assert "tasks.same" in executor.statistics(functions=True).functions

    async def program():
        async with AsyncTaskPool(2, processes=1) as awaited:
            await awaited.submit(tasks.same, 1)
            assert len(awaited.workers()) == 1
            assert awaited.healthy()
            assert "tasks.same" in awaited.statistics(functions=True).functions

    asyncio.run(program())


def test_in_a_forked_child(pool):
    one = pool(1)
    child = os.fork()
    if not child:
        status = 1
        try:
            one.workers()
        except WrongProcess:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("limit", [None, 4])
def test_counters_from_the_shared_page(pool, limit):
    one = pool(limit, processes=1)
    for n in range(40):
        one.apply_async(tasks.same, (n,)).get(DEADLINE)
    wait_until(lambda: one._view().ledger().reaped == 40, DEADLINE)
    ledger = one._view().ledger()
    assert (ledger.submitted, ledger.succeeded, ledger.in_flight) == (40, 40, 0)
    assert (ledger.state, ledger.limit, ledger.processes) == ("running", limit, 1)
