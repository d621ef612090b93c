"""A rolling restart: fresh workers of the program as it is now, no task lost."""

from __future__ import annotations

import os
import signal

import pytest

import tasks
from celery_pool import PoolNotRunning, TaskPool
from guards import wait_until
from support import DEADLINE, Calls, is_gone

METHODS = ["fork", "forkserver", "spawn"]
VERSION = "old"


def version() -> str:
    return VERSION


def await_renewed(p, old):
    wait_until(lambda: not set(old) & set(p.get_worker_pids()), DEADLINE)
    wait_until(lambda: all(is_gone(pid) for pid in old), DEADLINE)
    wait_until(lambda: p.ready == p.processes, DEADLINE)


def test_workers_see_the_program_as_it_is_now(pool, monkeypatch):
    p = pool(None, processes=2, context="fork")
    assert p.apply_async(version).get(DEADLINE) == "old"
    monkeypatch.setattr("test_renew.VERSION", "new")
    old = p.get_worker_pids()
    p.renew()
    await_renewed(p, old)
    assert {p.apply_async(version).get(DEADLINE) for _ in range(10)} == {"new"}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_meanwhile(pool, method):
    p = pool(100, processes=4, context=method, callbacks_in="caller")
    old = p.get_worker_pids()
    descriptor = p.fileno()
    good, bad = Calls(), Calls()
    submitted = 0
    p.renew()
    while set(old) & set(p.get_worker_pids()) or submitted < 1000:
        p.apply_async(tasks.nothing, callbacks=good, errbacks=bad)
        submitted += 1
        assert len(p.get_worker_pids()) <= 4
    await_renewed(p, old)
    while p.statistics().in_flight:
        p.reap(DEADLINE)
    p.reap()
    assert (len(good), len(bad)) == (submitted, 0)
    assert p.fileno() == descriptor
    wait_until(lambda: p.statistics().exits == {"renewed": 4}, DEADLINE)


def test_who_runs_a_task_ends_it_first(pool, gate):
    p = pool(None, processes=2)
    old = p.get_worker_pids()
    long = p.apply_async(tasks.pass_gate, (gate.path, "value"))
    (busy,) = gate.await_tasks()
    p.renew()
    (idle,) = set(old) - {busy}
    wait_until(lambda: is_gone(idle), DEADLINE)
    assert not is_gone(busy)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    gate.open()
    assert long.get(DEADLINE) == "value"
    await_renewed(p, old)


def test_asked_for_again_before_it_is_over(pool):
    p = pool(None, processes=3)
    for _ in range(3):
        old = p.get_worker_pids()
        p.renew()
    results = [p.apply_async(tasks.same, (i,)) for i in range(100)]
    assert [r.get(DEADLINE) for r in results] == list(range(100))
    await_renewed(p, old)
    wait_until(lambda: not p._supervisor.roster._retired, DEADLINE)


def test_the_old_template_is_killed_meanwhile(pool, gate):
    p = pool(None, processes=2)
    long = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    template = p._supervisor.roster.template.pid
    old = p.get_worker_pids()
    p.renew()
    wait_until(lambda: p._supervisor.roster._retired, DEADLINE)
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not p._supervisor.roster._retired, DEADLINE)
    gate.open()
    assert long.get(DEADLINE) == 1
    await_renewed(p, old)


def test_a_template_that_dies_renews_nobody(pool):
    p = pool(None, processes=2)
    old = p.get_worker_pids()
    os.kill(p._supervisor.roster.template.pid, signal.SIGKILL)
    wait_until(lambda: p._supervisor.roster.template is None, DEADLINE)
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: p.ready == 2 and old[0] not in p.get_worker_pids(), DEADLINE)
    assert [p.apply_async(tasks.same, (i,)).get(DEADLINE) for i in range(100)] == list(range(100))
    assert old[1] in p.get_worker_pids()
    assert p.statistics().exits.get("renewed", 0) == 0


def test_the_pool_ends_meanwhile(pool):
    for _ in range(5):
        p = pool(None, processes=2)
        p.renew()
        p.terminate()


def test_without_a_start():
    p = TaskPool(1)
    with pytest.raises(PoolNotRunning):
        p.renew()
    with p:
        pass
    with pytest.raises(PoolNotRunning):
        p.renew()
