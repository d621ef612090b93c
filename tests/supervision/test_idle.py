"""A pool at rest uses no CPU time at all: neither its parent nor any process below."""

from __future__ import annotations

import threading
import time

import pytest

import tasks
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, at_rest
from usage import SECONDS, SLACK, used


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_after_work(pool, mode):
    p = pool(8, processes=2, callbacks_in=mode)
    calls = Calls()
    for i in range(2000):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    while p.wait_for_result():
        pass
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used() < SLACK


def test_before_work(pool, start_method):
    pool(2)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used() < SLACK


def test_while_a_task_sleeps_and_somebody_waits(pool, tmp_path):
    p = pool(2)
    r = p.apply_async(time.sleep, (SECONDS + 1,), callbacks=Calls())
    getter, waiter = Background(r.get, DEADLINE), Background(p.wait_for_result)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    # who waits looks for signals once a second
    assert used(SECONDS - 0.5) < SLACK
    getter.result()
    waiter.result()


def test_while_collected_jobs_wait_for_a_caller(pool):
    p = pool(8, processes=2, callbacks_in="caller")
    for i in range(5):
        p.apply_async(tasks.same, (i,), callbacks=Calls())
    wait_until(lambda: p.statistics().waiting_callbacks == 5, DEADLINE)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used() < SLACK
    assert p.reap() == 5


def test_after_a_foreign_result(pool):
    """Looking at one that cannot notify costs time; when it has ended no more."""
    done = threading.Event()

    class Foreign:
        def ready(self):
            return done.is_set()

        def get(self):
            return 1

    p = pool(1)
    calls = Calls()
    p.add(Foreign(), calls)
    assert used(0.5) < 0.1
    done.set()
    calls.wait()
    wait_until(lambda: at_rest(p), DEADLINE)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used() < SLACK


def test_after_a_worker_was_replaced(pool):
    p = pool(1)
    old = p.get_worker_pids()
    p.apply_async(tasks.die).wait(DEADLINE)
    wait_until(lambda: p.get_worker_pids() not in ([], old), DEADLINE)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used() < SLACK


def test_while_a_callback_blocks(pool):
    p = pool(1, callbacks_in="reaper")
    entered, go_on = threading.Event(), threading.Event()

    def slow(value, meta):
        entered.set()
        go_on.wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=slow)
    assert entered.wait(DEADLINE)
    submitter = Background(p.apply_async, tasks.nothing)
    try:
        wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
        assert used(0.7) < SLACK
    finally:
        go_on.set()
    submitter.result()


def test_gate_is_not_part_of_the_measurement(tmp_path):
    """The measurement sees work where there is some."""
    stop = threading.Event()

    def burn():
        while not stop.is_set():
            pass

    thread = Background(burn)
    assert used(0.2) > 0.02
    stop.set()
    thread.result()
    assert Gate(tmp_path).waiting() == []
