"""The limit: full(), waiting in apply_async, backpressure by callbacks, no limit."""

from __future__ import annotations

import threading
import time

import pytest

import tasks
from celery_pool import PoolClosed, PoolTerminated, TaskPool
from celery_pool.host.cpus import usable_cpus
from guards import wait_until
from support import DEADLINE, Background, Calls, at_rest, stays


def test_full_from_the_limit_on(pool, gate):
    p = pool(3, processes=1)
    full = []
    results = []
    for _ in range(3):
        full.append(p.full())
        results.append(p.apply_async(tasks.pass_gate, (gate.path,)))
    assert full == [False, False, False]
    assert p.full()
    assert p.statistics().in_flight == 3
    gate.open()
    results[0].get(DEADLINE)
    assert not p.full()


def test_full_never_reaps(pool):
    p = pool(1, callbacks_in="caller")
    calls = Calls()
    p.apply_async(tasks.same, (1,), callbacks=calls)
    wait_until(lambda: p.statistics().waiting_callbacks == 1, DEADLINE)
    for _ in range(100):
        p.full()
    assert not calls.calls
    assert not p.full()  # collected: its slot is free
    p.reap()


def test_apply_async_waits_when_full(pool, gate, start_method):
    p = pool(2)
    first = [p.apply_async(tasks.pass_gate, (gate.path, i)) for i in range(2)]
    gate.await_tasks(2)
    submitter = Background(p.apply_async, tasks.same, (2,))
    assert stays(lambda: not submitter.done)
    assert p.statistics().submitted == 2
    gate.open()
    assert submitter.result().get(DEADLINE) == 2
    assert [r.get(DEADLINE) for r in first] == [0, 1]


def test_waiting_in_apply_async_reaps(pool):
    """Collected by the background thread or not, the caller runs the callbacks."""
    p = pool(1, callbacks_in="caller")
    calls = Calls()
    for i in range(50):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    assert len(calls) >= 48  # the rest: in flight, and awaiting its callback
    while p.wait_for_result():
        pass
    assert calls.values == list(range(50))


def test_never_more_in_flight_than_the_limit(pool):
    p = pool(4, processes=2)
    most, done = 0, False

    def watch():
        nonlocal most
        while not done:
            most = max(most, p.statistics().in_flight)
            time.sleep(0)

    watcher = Background(watch)
    submitters = [
        Background(lambda: [p.apply_async(tasks.nothing) for _ in range(300)]) for _ in range(3)
    ]
    for submitter in submitters:
        submitter.result(40)
    done = True
    watcher.result()
    assert 0 < most <= 4


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_submitter_that_waits_learns_of_the_end(pool, gate, end):
    p = pool(1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    submitters = [Background(p.apply_async, tasks.nothing) for _ in range(3)]
    assert stays(lambda: not any(s.done for s in submitters), 0.05)
    Background(getattr(p, end)).result()
    for submitter in submitters:
        with pytest.raises(PoolClosed if end == "close" else PoolTerminated):
            submitter.result()
    assert p.statistics().submitted == 1
    gate.open()


# ---- callbacks count ----


def test_a_submitter_waits_for_slow_callbacks(pool):
    """Once `limit` collected jobs await their callbacks, submitters wait."""
    limit = 4
    p = pool(limit, processes=2, callbacks_in="reaper")
    go_on, done = threading.Event(), Calls()

    def slow(value, meta):
        assert go_on.wait(DEADLINE)
        done(value)

    submitter = Background(
        lambda: [p.apply_async(tasks.same, (i,), callbacks=slow) for i in range(100)]
    )
    wait_until(lambda: p.statistics().waiting_callbacks >= limit, DEADLINE)
    wait_until(lambda: p.statistics().in_flight == 0, DEADLINE)
    submitted = p.statistics().submitted
    assert submitted < 2 * limit
    assert stays(lambda: p.statistics().submitted == submitted)
    assert not submitter.done
    assert not p.full()
    go_on.set()
    submitter.result()
    done.wait(100)
    assert done.values.count(0) == 1
    assert sorted(done.values) == list(range(100))


def test_foreign_results_wait_for_slow_callbacks_too(pool):
    p = pool(1, callbacks_in="reaper")
    go_on = threading.Event()

    class Finished:
        def ready(self):
            return True

        def get(self):
            return 1

    p.add(Finished(), callbacks=lambda *_: go_on.wait(DEADLINE))
    wait_until(lambda: p.statistics().waiting_callbacks == 1, DEADLINE)
    submitter = Background(p.add, Finished())
    assert stays(lambda: not submitter.done)
    go_on.set()
    submitter.result()
    wait_until(lambda: at_rest(p), DEADLINE)


def test_submissions_from_callbacks_are_excepted(pool):
    p = pool(1, callbacks_in="reaper")
    children = Calls()

    def parent(value, meta):
        for i in range(10):
            p.apply_async(tasks.same, (i,), callbacks=children)

    Background(p.apply_async(tasks.nothing, callbacks=parent).wait, DEADLINE).result()
    children.wait(10)
    assert children.values == list(range(10))


# ---- processes, no limit ----


def test_processes_default_to_the_limit(pool):
    assert len(pool(3).get_worker_pids()) == 3


def test_processes_below_the_limit(pool):
    p = pool(10, processes=2)
    assert (p.limit, len(p.get_worker_pids())) == (10, 2)


def test_tasks_queue_at_the_workers(pool, gate):
    p = pool(6, processes=1)
    results = [p.apply_async(tasks.pass_gate, (gate.path, i)) for i in range(6)]
    assert p.full()
    gate.open()
    assert [r.get(DEADLINE) for r in results] == list(range(6))


def test_without_limit(pool, gate):
    p = pool(None, processes=1)
    assert p.limit is None
    results = [p.apply_async(tasks.pass_gate, (gate.path, i)) for i in range(5000)]
    assert not p.full()
    assert p.statistics().in_flight == 5000
    gate.open()
    assert [r.get(DEADLINE) for r in results] == list(range(5000))


def test_without_limit_processes_are_the_usable_cpus(pool):
    assert len(pool(None).get_worker_pids()) == usable_cpus()


def test_a_hundred_thousand_in_flight(pool):
    count = 100_000
    p = pool(count, processes=2)
    total = 0

    def callback(value, meta):
        nonlocal total
        total += value

    for i in range(count):
        p.apply_async(tasks.same, (i,), callbacks=callback)
    while p.wait_for_result():
        pass
    assert total == count * (count - 1) // 2
    statistics = p.statistics()
    assert (statistics.submitted, statistics.succeeded) == (count, count)
    assert at_rest(p)


def test_a_hundred_thousand_really_in_flight(pool, gate):
    """All submitted before the first one ends."""
    count = 100_000
    p = pool(count, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    calls = Calls()
    for i in range(count - 1):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    assert p.full()
    assert p.statistics().in_flight == count
    gate.open()
    first.get(DEADLINE)
    while p.wait_for_result():
        pass
    assert calls.values == list(range(count - 1))


def test_attributes():
    p = TaskPool(7, 1.5, context="fork", processes=2)
    assert (p.limit, p.reap_timeout) == (7, 1.5)
    assert p.logger.name == "celery_pool"
