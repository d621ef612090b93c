"""reap() and wait_for_result()."""

from __future__ import annotations

import time

import pytest

import tasks
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, at_rest, collected, in_time, stays, took


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_nothing_in_flight(pool, mode):
    p = pool(1, callbacks_in=mode)
    assert p.reap() == 0
    assert p.wait_for_result() == 0


def test_reap_takes_what_is_finished(pool, gate):
    p = pool(5, processes=2, callbacks_in="caller")
    calls = Calls()
    for i in range(5):
        p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=calls)
    gate.open()
    collected(p, 5)
    assert p.reap() == 5
    assert p.reap() == 0
    assert sorted(calls.values) == [0, 1, 2, 3, 4]


def test_reap_leaves_what_finishes_meanwhile(pool):
    """It ends although the callbacks keep submitting."""
    p = pool(4, processes=2, callbacks_in="caller")
    count = 0

    def again(value, meta):
        nonlocal count
        count += 1
        if count < 10_000:
            p.apply_async(tasks.nothing, callbacks=again).wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=again)
    collected(p, 1)
    assert p.reap() == 1
    assert count == 1
    count = 10_000
    while p.wait_for_result():
        pass


def test_reap_does_not_wait_without_timeout(pool, gate):
    p = pool(1, callbacks_in="caller")
    calls = Calls()
    p.apply_async(tasks.pass_gate, (gate.path,), callbacks=calls)
    gate.await_tasks()
    start = time.monotonic()
    assert p.reap() == 0
    assert p.reap(timeout=None) == 0
    assert p.reap(timeout=0) == 0
    took(start, 1)
    gate.open()
    assert p.reap(timeout=DEADLINE) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_reap_timeout_is_the_default(pool, gate, mode):
    p = pool(1, reap_timeout=0.1, callbacks_in=mode)
    p.apply_async(tasks.pass_gate, (gate.path,), callbacks=Calls())
    start = time.monotonic()
    assert p.reap() == 0
    assert took(start, 5) >= 0.1
    p.reap_timeout = DEADLINE
    reaper = Background(p.reap)
    assert stays(lambda: not reaper.done, 0.05)
    gate.open()
    assert reaper.result() == 1


def test_reap_timeout_is_overridden(pool, gate):
    p = pool(1, reap_timeout=DEADLINE, callbacks_in="caller")
    p.apply_async(tasks.pass_gate, (gate.path,), callbacks=Calls())
    start = time.monotonic()
    assert p.reap(timeout=0.05) == 0
    assert p.reap(timeout=None) == 0
    took(start, 5)
    gate.open()
    assert p.reap() == 1


def test_reap_with_nothing_in_flight_does_not_wait(pool):
    p = pool(1, reap_timeout=DEADLINE)
    start = time.monotonic()
    assert p.reap() == 0
    took(start, 5)


def test_reap_counts_jobs_without_callbacks(pool, gate):
    p = pool(1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    reaper = Background(p.reap, timeout=DEADLINE)
    gate.open()
    assert reaper.result() == 1


def test_wait_for_result_waits_for_the_first(pool, gate, start_method):
    p = pool(2)
    slow = p.apply_async(tasks.pass_gate, (gate.path,), callbacks=Calls())
    gate.await_tasks()
    other = Gate(tmp := gate._directory, "other")
    fast = p.apply_async(tasks.pass_gate, (other.path,), callbacks=Calls())
    waiter = Background(p.wait_for_result)
    assert stays(lambda: not waiter.done, 0.05)
    other.open()
    assert waiter.result() == 1
    assert fast.ready()
    assert not slow.ready()
    gate.open()
    assert tmp


def test_wait_for_result_counts(pool, gate):
    p = pool(3, processes=1, callbacks_in="caller")
    calls = Calls()
    for i in range(3):
        p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=calls)
    gate.open()
    collected(p, 3)
    assert p.wait_for_result() == 3
    assert p.wait_for_result() == 0
    assert len(calls) == 3


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_wait_for_result_is_ended_by_another_thread(pool, gate, mode):
    """Each of many waiters, by one task, whoever reaps it."""
    p = pool(1, callbacks_in=mode)
    p.apply_async(tasks.pass_gate, (gate.path,), callbacks=Calls())
    gate.await_tasks()
    waiters = [Background(p.wait_for_result) for _ in range(4)]
    assert stays(lambda: not any(w.done for w in waiters), 0.05)
    gate.open()
    p.reap(timeout=DEADLINE)
    assert [w.result() for w in waiters] == [1, 1, 1, 1]


def test_wait_for_result_is_ended_by_get(pool, gate):
    p = pool(1, callbacks_in="caller")
    r = p.apply_async(tasks.pass_gate, (gate.path, 1), callbacks=Calls())
    getter, waiter = Background(r.get, DEADLINE), Background(p.wait_for_result)
    gate.open()
    assert getter.result() == 1
    assert waiter.result() == 1


def test_wait_for_result_is_ended_by_terminate(pool, gate):
    p = pool(1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    waiters = [Background(p.wait_for_result) for _ in range(2)]
    Background(p.terminate).result()
    assert [w.result() for w in waiters] == [1, 1]


def test_wait_for_result_is_ended_by_on_return(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    waiter = Background(p.wait_for_result)
    assert stays(lambda: not waiter.done, 0.05)
    p.on_return(None, r.tid, [], [], {})
    assert waiter.result() == 1
    gate.open()


def test_everything_is_reaped_once(pool):
    p = pool(8, processes=2)
    calls = Calls()
    reaped = 0
    for i in range(500):
        p.apply_async(tasks.same, (i,), callbacks=calls)
        if i % 50 == 0:
            reaped += p.reap()
    while not at_rest(p):
        reaped += p.wait_for_result()
    assert sorted(calls.values) == list(range(500))
    assert 0 <= reaped <= 500


def test_the_background_reaper_needs_no_help(pool, start_method):
    p = pool(4, processes=2)
    calls = Calls()
    for i in range(100):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    wait_until(lambda: len(calls) == 100, DEADLINE)


def test_paced_submissions_are_delivered_at_once(pool):
    """The background reaper does not stay away because somebody submits now and then."""
    p = pool(16, processes=2)
    latencies = []
    for _ in range(200):
        start = time.perf_counter()
        p.apply_async(
            tasks.nothing, callbacks=lambda v, m, s=start: latencies.append(time.perf_counter() - s)
        )
        time.sleep(0.001)
    wait_until(lambda: len(latencies) == 200, DEADLINE)
    assert in_time(sorted(latencies)[100], 0.02)
