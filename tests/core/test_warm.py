"""Short tasks queue at a worker that is warm while others are idle; long ones do not stay there."""

from __future__ import annotations

import time

import pytest

import tasks
from guards import wait_until
from support import DEADLINE

WORKERS = 4


def warm(p):
    """Until it is known that tasks are short: they all go to one worker."""
    for _ in range(2_000):
        p.apply_async(tasks.nothing)
    wait_until(lambda: not p.statistics().in_flight, DEADLINE)


@pytest.mark.parametrize("callbacks_in", ["any", "reaper", "caller"])
@pytest.mark.parametrize("quiet", [0, 0.05])
def test_long_tasks_after_short_ones_run_side_by_side(pool, gate, callbacks_in, quiet):
    """Also if nobody calls the pool meanwhile."""
    p = pool(None, processes=WORKERS, callbacks_in=callbacks_in)
    for _ in range(5):
        warm(p)
        time.sleep(quiet)
        results = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(WORKERS)]
        assert len(set(gate.await_tasks(WORKERS))) == WORKERS
        gate.open()
        for r in results:
            r.get(DEADLINE)
        gate.close()


def test_long_tasks_among_short_ones_run_side_by_side(pool, gate):
    p = pool(None, processes=WORKERS)
    warm(p)
    for index in range(400):
        p.apply_async(tasks.nothing)
        if index % 100 == 50:
            p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks(WORKERS)
    gate.open()


def test_a_pool_that_waits_for_one_task_has_it_run_by_the_same_worker(pool):
    p = pool(None, processes=WORKERS)
    warm(p)
    pids = {p.apply_async(tasks.pid).get(DEADLINE) for _ in range(50)}
    assert len(pids) <= 2  # one may have been put aside by the kernel
