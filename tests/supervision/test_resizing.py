"""grow, shrink and limit while tasks run; processes that tasks start themselves."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tasks
from guards import wait_until
from support import DEADLINE, Background, Calls, at_rest, is_gone, stays, took


def size(p):
    return len(p.get_worker_pids())


def test_grow_and_shrink_at_rest(pool, start_method):
    p = pool(None, processes=1)
    (first,) = p.get_worker_pids()
    p.grow(2)
    wait_until(lambda: size(p) == 3, DEADLINE)
    assert first in p.get_worker_pids()
    p.shrink(2)
    wait_until(lambda: size(p) == 1, DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    wait_until(lambda: p.statistics().exits == {"shrunk": 2}, DEADLINE)
    assert p.processes == 1


def test_a_new_worker_takes_what_waits(pool, gate):
    p = pool(None, processes=1)
    long = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    waiting = [p.apply_async(tasks.same, (i,)) for i in range(50)]
    assert not any(r.ready() for r in waiting)
    p.grow()
    assert [r.get(DEADLINE) for r in waiting] == list(range(50))
    assert not long.ready()
    gate.open()
    long.get(DEADLINE)


def test_shrinking_never_interrupts(pool, gate):
    p = pool(None, processes=3)
    running = [p.apply_async(tasks.pass_gate, (gate.path, i)) for i in range(3)]
    pids = gate.await_tasks(3)
    waiting = [p.apply_async(tasks.same, (i,)) for i in range(30)]
    p.shrink(2)
    assert stays(lambda: sorted(p.get_worker_pids()) == sorted(pids))
    gate.open()
    assert [r.get(DEADLINE) for r in running] == [0, 1, 2]
    assert [r.get(DEADLINE) for r in waiting] == list(range(30))
    wait_until(lambda: size(p) == 1, DEADLINE)
    wait_until(lambda: p.statistics().exits == {"shrunk": 2}, DEADLINE)


def test_idle_workers_go_first(pool, gate):
    p = pool(None, processes=4)
    running = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(2)]
    busy = gate.await_tasks(2)
    p.shrink(2)
    wait_until(lambda: sorted(p.get_worker_pids()) == sorted(busy), DEADLINE)
    gate.open()
    for r in running:
        r.get(DEADLINE)
    assert sorted(p.get_worker_pids()) == sorted(busy)


def test_shrinking_with_full_rings(pool, gate):
    """The worker's ring has no room for the word to leave."""
    p = pool(None, processes=2)
    running = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(2)]
    gate.await_tasks(2)
    data = bytes(20_000)
    waiting = [p.apply_async(tasks.nothing, (data,)) for _ in range(200)]
    p.shrink()
    gate.open()
    for r in running + waiting:
        r.get(DEADLINE)
    wait_until(lambda: size(p) == 1, DEADLINE)
    p.close()
    assert p.join(DEADLINE)


def test_all_the_time_under_load(pool, tmp_path):
    log = str(tmp_path / "log")
    p = pool(100, processes=2)
    outcomes = Calls()
    stop = threading.Event()

    def resize():
        count = 0
        while not stop.wait(0.01):
            p.grow(2)
            p.shrink(3 if p.processes > 4 else 1)
            count += 1
        return count

    resizer = Background(resize)
    for i in range(3000):
        p.apply_async(tasks.append, (log, str(i)), callbacks=outcomes, errbacks=outcomes, meta=i)
        if i % 20 == 0:
            time.sleep(0.002)
    wait_until(lambda: at_rest(p), 30)
    stop.set()
    assert resizer.result() > 5
    assert sorted(meta for _, meta in outcomes.calls) == list(range(3000))
    assert all(value is None for value in outcomes.values)
    assert sorted(map(int, Path(log).read_text().split())) == list(range(3000))
    wait_until(lambda: size(p) == p.processes, DEADLINE)
    assert set(p.statistics().exits) <= {"shrunk"}


def test_growing_and_recycling(pool):
    p = pool(None, processes=1, maxtasksperchild=2)
    results = []
    for i in range(60):
        results.append(p.apply_async(tasks.same, (i,)))
        if i in (10, 20):
            p.grow()
        if i in (30, 40):
            p.shrink()
    assert [r.get(DEADLINE) for r in results] == list(range(60))
    # and a successor for each, at most
    wait_until(lambda: 1 <= size(p) <= 2, DEADLINE)


def test_from_a_callback(pool):
    p = pool(None, processes=2)
    p.apply_async(tasks.nothing, callbacks=lambda value, meta: p.grow())
    wait_until(lambda: size(p) == 3, DEADLINE)
    p.apply_async(tasks.nothing, callbacks=lambda value, meta: p.shrink(2))
    wait_until(lambda: size(p) == 1, DEADLINE)


def test_the_sizes_are_kept_by_run(pool):
    p = pool(None, processes=2)
    p.grow()
    p.terminate()
    p.shrink()
    p.grow(2)
    p.run()
    assert size(p) == 4


def test_what_cannot_be(pool):
    p = pool(3, processes=2)
    with pytest.raises(ValueError, match="limit=3"):
        p.grow(2)
    with pytest.raises(ValueError, match="cannot shrink"):
        p.shrink(2)
    for n in (0, -1):
        with pytest.raises(ValueError, match="from 1 to"):
            p.grow(n)
        with pytest.raises(ValueError, match="from 1 to"):
            p.shrink(n)
    for n in (1.5, "1", None):
        with pytest.raises(TypeError):
            p.grow(n)
    assert p.processes == size(p) == 2


def test_the_limit_is_set_while_somebody_waits(pool, gate):
    p = pool(2, processes=2)
    for _ in range(2):
        p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks(2)
    submitter = Background(p.apply_async, tasks.same, (1,))
    assert stays(lambda: not submitter.done)
    p.limit = 3
    r = submitter.result()
    p.limit = 2  # more in flight than that
    submitter = Background(p.apply_async, tasks.same, (2,))
    assert stays(lambda: not submitter.done)
    p.limit = None
    other = submitter.result()
    gate.open()
    assert (r.get(DEADLINE), other.get(DEADLINE)) == (1, 2)
    with pytest.raises(ValueError, match="processes=2"):
        p.limit = 1


# ---- processes of the tasks' own ----


def start_a_process() -> tuple[int, int]:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    return os.getpid(), process.exitcode


def run_a_command() -> str:
    return subprocess.run(
        [sys.executable, "-c", "print('from below')"], capture_output=True, text=True, check=True
    ).stdout


def leave_a_command(seconds: float) -> int:
    return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"]).pid


def test_a_process_of_a_task(pool, start_method):
    p = pool(1)
    (worker,) = p.get_worker_pids()
    assert p.apply_async(start_a_process).get(DEADLINE) == (worker, 5)
    assert p.apply_async(run_a_command).get(DEADLINE) == "from below\n"
    assert p.get_worker_pids() == [worker]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_in_a_task(pool, method):
    p = pool(2)
    results = [p.apply_async(tasks.pool_in_a_task, (method,)) for _ in range(2)]
    assert [r.get(20) for r in results] == [[0, 1, 2]] * 2


def test_children_of_a_recycled_worker_live_on(pool):
    p = pool(1, maxtasksperchild=1)
    child = p.apply_async(leave_a_command, (1.5,)).get(DEADLINE)
    pids = [p.apply_async(tasks.pid).get(DEADLINE) for _ in range(3)]
    assert len(set(pids)) == 3
    assert not is_gone(child)
    wait_until(lambda: is_gone(child), DEADLINE)


def test_a_command_that_is_left_does_not_hold_up_the_end(pool):
    p = pool(1)
    child = p.apply_async(leave_a_command, (3,)).get(DEADLINE)
    start = time.monotonic()
    p.close()
    assert p.join(DEADLINE)
    took(start, 2.5)
    wait_until(lambda: is_gone(child), DEADLINE)


def test_one_that_is_told_to_leave_while_it_starts_gets_no_task(pool, gate, tmp_path):
    """Though there is a seat for it by the time it is ready."""
    flag = tmp_path / "flag"
    flag.touch()
    p = pool(
        None,
        processes=1,
        initializer=tasks.unless_exists,
        initargs=(str(flag), tasks.pass_gate, gate.path),
    )
    flag.unlink()
    p.grow(1)
    (told,) = gate.await_tasks()
    p.shrink(1)
    wait_until(lambda: any(w.channel.leaving for w in p._supervisor.roster), DEADLINE)
    p.grow(1)
    gate.await_tasks(2)
    gate.open()
    pids = set()
    while not p.statistics().exits or p.ready < 2:
        pids |= {r.get(DEADLINE) for r in [p.apply_async(tasks.pid) for _ in range(20)]}
    assert told not in pids
    assert p.statistics().exits == {"shrunk": 1}
