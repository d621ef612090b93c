"""`statistics(functions=True)`: counts and times by function."""

from __future__ import annotations

import functools
import os
import signal
import time

import pytest

import many_functions
import tasks
from celery_pool import WorkerLostError
from guards import wait_until
from support import DEADLINE, Calls

SAME, FAIL, PID = "tasks.same", "tasks.fail", "tasks.pid"


def functions_of(pool):
    return pool.statistics(functions=True).functions


def await_count(pool, name, count):
    """A worker counts a task when it goes on, just after its result is here."""
    wait_until(lambda: name in functions_of(pool), DEADLINE)
    wait_until(lambda: functions_of(pool)[name].count >= count, DEADLINE, f"{count} of {name}")
    assert functions_of(pool)[name].count == count
    return functions_of(pool)[name]


def test_not_unless_asked_for(pool):
    assert pool().statistics().functions is None


def test_each_function_by_itself(pool, start_method):
    one = pool(None, processes=2)
    results = [one.apply_async(tasks.same, (1,)) for _ in range(500)]
    for _ in range(70):
        results.append(one.apply_async(tasks.fail, (ValueError, "no"), {}, [], [Calls()]))
    for result in results:
        result.wait(DEADLINE)
    same, fail = await_count(one, SAME, 500), await_count(one, FAIL, 70)
    assert (same.failed, fail.failed) == (0, 70)
    assert same.name == SAME
    assert 0 < same.run.quantile(0.5) < 1


def test_times_are_those_of_the_tasks(pool):
    one = pool(2, processes=1)
    first, second = (one.apply_async(time.sleep, (0.05,)) for _ in range(2))
    second.get(DEADLINE)
    first.get(DEADLINE)
    sleep = await_count(one, "time.sleep", 2)
    assert sleep.run.quantile(0.0) >= 0.05 * 0.87
    assert sleep.run.total >= 0.1
    assert sleep.wait.count == 2
    assert sleep.wait.quantile(1.0) >= 0.05 * 0.87  # the second one's turn came after the first


def test_waits_are_sampled_when_many_are_in_flight(pool, gate):
    one = pool(None, processes=1)
    blocker = one.apply_async(tasks.pass_gate, (gate.path,))
    results = [one.apply_async(tasks.same, (n,)) for n in range(3231)]
    gate.open()
    results[-1].get(DEADLINE)
    blocker.get(DEADLINE)
    same = await_count(one, SAME, 3231)
    assert same.wait.count == 31 + 3200 // 32


def test_with_and_without_other_uses_of_the_time(pool):
    one = pool(8, processes=1)
    accepted = []
    kinds = {
        "accept": {"accept_callback": lambda pid, when: accepted.append(when)},
        "expires": {"expires": 60},
    }
    for options in kinds.values():
        one.apply_async(tasks.same, (1,), **options).get(DEADLINE)
    same = await_count(one, SAME, 2)
    assert same.wait.count == 1  # not of the one that could expire
    wait_until(lambda: accepted, DEADLINE)
    assert abs(accepted[0] - time.monotonic()) < DEADLINE


def test_what_workers_have_counted_outlives_them(pool):
    one = pool(4, processes=2, maxtasksperchild=1)
    seen = 0
    for _ in range(60):
        one.apply_async(tasks.same, (1,)).get(DEADLINE)
        now = functions_of(one).get(SAME)
        count = 0 if now is None else now.count
        assert count >= seen
        seen = count
    await_count(one, SAME, 60)


def test_a_killed_worker_takes_its_task_and_no_count(pool, gate):
    one = pool(4, processes=1)
    for _ in range(10):
        one.apply_async(tasks.same, (1,)).get(DEADLINE)
    lost = one.apply_async(tasks.pass_gate, (gate.path,))
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        lost.get(DEADLINE)
    one.apply_async(tasks.same, (1,)).get(DEADLINE)
    await_count(one, SAME, 11)


def test_more_functions_than_there_is_room_for(pool):
    one = pool(None, processes=1)
    results = [
        one.apply_async(getattr(many_functions, f"f{n % many_functions.COUNT}"), (1,))
        for n in range(2 * many_functions.COUNT)
    ]
    for result in results:
        result.wait(DEADLINE)
    wait_until(lambda: sum(f.count for f in functions_of(one).values()) == len(results), DEADLINE)
    assert functions_of(one)["other"].count > 0
    assert len(functions_of(one)) <= 64


def test_what_travels_with_its_task_is_other(pool):
    one = pool(2, processes=1)
    one.apply_async(functools.partial(tasks.same, 1)).get(DEADLINE)
    await_count(one, "other", 1)


def test_a_run_begins_at_nothing(pool):
    one = pool(2, processes=1)
    one.apply_async(tasks.same, (1,)).get(DEADLINE)
    one.terminate()
    one.run()
    assert functions_of(one) == {}
