"""current_worker() in tasks, initializers and finalizers; workers that leave by their own wish."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import tasks
from celery_pool import TaskPool, TaskPoolExecutor, current_worker
from guards import wait_until
from support import DEADLINE, Gate

seen: list[object] = []


def describe() -> tuple[int, int, str, int]:
    worker = current_worker()
    return worker.index, worker.pid, worker.pool_name, worker.tasks_done


def describe_at(gate: str) -> tuple[int, int, str, int]:
    tasks.pass_gate(gate)
    return describe()


def remember() -> None:
    seen.append(describe())


def remembered() -> object:
    return seen[0], describe()


def write_to(path: str) -> None:
    tasks.append(path, " ".join(map(str, describe())))


class Write:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> None:
        write_to(self.path)


def retire() -> int:
    current_worker().retire()
    return os.getpid()


def retire_and_pass(gate: str) -> int:
    current_worker().retire()
    tasks.pass_gate(gate)
    return os.getpid()


def retire_in_a_thread() -> int:
    thread = threading.Thread(target=retire)
    thread.start()
    thread.join()
    return os.getpid()


def retire_soon(gate: str) -> int:
    """By a thread, when the worker has nothing to do."""

    def body() -> None:
        tasks.wait_for_file(gate)
        current_worker().retire()

    threading.Thread(target=body, daemon=True).start()
    return os.getpid()


def in_a_forked_child() -> bool:
    child = os.fork()
    if child == 0:
        os._exit(current_worker() is None)
    return bool(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def replaced(p, *old):
    wait_until(
        lambda: p.get_worker_pids() and not {*old} & {*p.get_worker_pids()}, DEADLINE, "a new one"
    )


def test_outside_of_a_worker():
    assert current_worker() is None


def test_in_tasks_and_initializers(pool, start_method):
    p = pool(1, initializer=remember)
    (pid,) = p.get_worker_pids()
    for done in range(3):
        first, now = p.apply_async(remembered).get(DEADLINE)
        assert first[:2] == now[:2] == (0, pid)
        assert first[2] == now[2]
        assert (first[3], now[3]) == (0, done)


def test_the_index_is_a_stable_place(pool, start_method, tmp_path):
    p = pool(None, processes=3)
    gate = Gate(tmp_path)
    results = [p.apply_async(describe_at, (gate.path,)) for _ in range(3)]
    victim = gate.await_tasks(3)[0]
    gate.open()
    found = {pid: index for index, pid, *_ in (r.get(DEADLINE) for r in results)}
    assert sorted(found.values()) == [0, 1, 2]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in p.get_worker_pids() and len(p.get_worker_pids()) == 3)
    gate = Gate(tmp_path, "second")
    results = [p.apply_async(describe_at, (gate.path,)) for _ in range(3)]
    gate.await_tasks(3)
    gate.open()
    again = {pid: index for index, pid, *_ in (r.get(DEADLINE) for r in results)}
    (replacement,) = again.keys() - found.keys()
    assert again[replacement] == found[victim]


def test_in_the_finalizer(pool, tmp_path):
    log = tmp_path / "log"
    with TaskPool(1, finalizer=Write(str(log)), context="fork") as p:
        pids = [p.apply_async(tasks.pid).get(DEADLINE) for _ in range(3)]
    index, pid, name, done = log.read_text().split()
    assert (int(index), int(pid), int(done)) == (0, pids[0], 3)
    assert name.startswith("TaskPool-")


def test_failures_count_and_forked_children_are_nobody(pool):
    p = pool(1)
    with pytest.raises(ValueError, match="x"):
        p.apply_async(tasks.fail, (ValueError, "x")).get(DEADLINE)
    assert p.apply_async(describe).get(DEADLINE)[3] == 1
    assert p.apply_async(in_a_forked_child).get(DEADLINE)


# ---- leaving ----


@pytest.mark.parametrize("target", [retire, retire_in_a_thread])
def test_retire(pool, start_method, target):
    p = pool(1)
    pids = [p.apply_async(target).get(DEADLINE) for _ in range(4)]
    assert len(set(pids)) == 4
    replaced(p, *pids)
    wait_until(lambda: p.statistics().exits == {"recycled": 4}, DEADLINE)
    assert p.statistics().failed == 0


def test_what_a_retired_worker_was_given_goes_elsewhere(pool, tmp_path):
    """At once; its successor stands by before the task has ended."""
    p = pool(None, processes=1)
    gate = Gate(tmp_path)
    first = p.apply_async(retire_and_pass, (gate.path,))
    behind = [p.apply_async(tasks.pid) for _ in range(200)]
    (old,) = gate.await_tasks()
    wait_until(lambda: p.statistics().workers == 2, DEADLINE, "a successor")
    gate.open()
    assert first.get(DEADLINE) == old
    pids = {r.get(DEADLINE) for r in behind}
    assert len(pids) == 1
    assert old not in pids


def test_retire_in_the_initializer_is_after_the_first_task(pool):
    p = pool(None, processes=1, initializer=retire)
    pids = [r.get(DEADLINE) for r in [p.apply_async(tasks.pid) for _ in range(6)]]
    assert len(set(pids)) == 6


def test_retire_between_two_tasks(pool, tmp_path):
    p = pool(1)
    gate = Gate(tmp_path)
    old = p.apply_async(retire_soon, (gate.path,)).get(DEADLINE)
    assert p.apply_async(tasks.pid).get(DEADLINE) == old
    gate.open()
    replaced(p, old)
    assert p.apply_async(tasks.pid).get(DEADLINE) != old


def test_retire_does_not_break_an_executor():
    with TaskPoolExecutor(1, mp_context="fork", lost_breaks_pool=True) as executor:
        assert len({executor.submit(retire).result(DEADLINE) for _ in range(3)}) == 3


class Bad(Exception):
    pass


class Worse(Bad):
    pass


@pytest.mark.parametrize("leave_on", [Bad, (SystemExit, Bad)])
def test_leave_on(pool, leave_on):
    p = pool(None, processes=1, leave_on=leave_on)
    (old,) = p.get_worker_pids()
    stays = p.apply_async(tasks.fail, (ValueError, "stays"))
    with pytest.raises(ValueError, match="stays"):
        stays.get(DEADLINE)
    assert p.apply_async(tasks.pid).get(DEADLINE) == old
    leaves = p.apply_async(tasks.fail, (Worse, "leaves"))
    behind = [p.apply_async(tasks.pid) for _ in range(100)]
    with pytest.raises(Worse, match="leaves"):
        leaves.get(DEADLINE)
    pids = {r.get(DEADLINE) for r in behind}
    assert len(pids) == 1
    assert old not in pids
    wait_until(lambda: p.statistics().exits == {"recycled": 1}, DEADLINE)


def test_by_default_a_worker_stays(pool):
    p = pool(1)
    (old,) = p.get_worker_pids()
    with pytest.raises(SystemExit):
        p.apply_async(sys.exit, (3,)).get(DEADLINE)
    assert p.apply_async(tasks.pid).get(DEADLINE) == old


@pytest.mark.parametrize("wrong", [None, "SystemExit", (SystemExit, 3), [SystemExit], ValueError()])
def test_wrong_classes(wrong):
    with pytest.raises(TypeError, match="leave_on"):
        TaskPool(1, leave_on=wrong)
