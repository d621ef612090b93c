"""Workers replaced on purpose: after so many tasks, for their memory, and while the parent's
threads hold every lock there is."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter

import pytest

import hammering
import tasks
from celery_pool import MemoryLimitExceeded, TaskPool
from celery_pool.child.worker import title_setter
from guards import wait_until
from support import DEADLINE, Calls, Gate, at_rest

MIB = 1024

kept: list[bytes] = []


def keep(mebibytes: int, seconds: float = 0) -> int:
    """Takes memory and holds it, also after the task."""
    kept.append(os.urandom(1 << 20) * mebibytes)
    time.sleep(seconds)
    return os.getpid()


def hold(mebibytes: int, seconds: float) -> int:
    block = os.urandom(1 << 20) * mebibytes
    time.sleep(seconds)
    return len(block)


def pid_and_wait(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def one_at_a_time(p, count):
    return [p.apply_async(tasks.pid).get(DEADLINE) for _ in range(count)]


# ---- maxtasksperchild ----


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("processes", [1, 3])
def test_never_more_tasks_than_allowed(pool, most, processes):
    p = pool(None, processes=processes, maxtasksperchild=most)
    count = 5 * most + 20
    pids = Counter(r.get(30) for r in [p.apply_async(tasks.pid) for _ in range(count)])
    assert pids.total() == count
    assert max(pids.values()) <= most
    # nor is a worker sent away early
    assert len(pids) <= count // most + 2 * processes + 1
    least = max(1, count // most - 2 * processes)
    wait_until(lambda: p.statistics().exits.get("recycled", 0) >= least)
    statistics = p.statistics()
    assert set(statistics.exits) == {"recycled"}
    assert statistics.failed == 0


def test_one_after_the_other(pool, start_method):
    p = pool(1, maxtasksperchild=2)
    pids = one_at_a_time(p, 7)
    assert max(Counter(pids).values()) <= 2
    assert len(set(pids)) >= 4


def test_failures_count_as_tasks(pool):
    p = pool(1, maxtasksperchild=2)
    for _ in range(6):
        r = p.apply_async(tasks.fail, (ValueError, "x"))
        with pytest.raises(ValueError, match="x"):
            r.get(DEADLINE)
    wait_until(lambda: p.statistics().exits.get("recycled", 0) >= 2)


def test_the_successor_stands_by_before_the_worker_leaves(pool, tmp_path):
    """So that it can take the next task at once; not before the last result is here."""
    p = pool(None, processes=1, maxtasksperchild=10)
    one_at_a_time(p, 1)
    for round_ in range(5):
        old = p.get_worker_pids()
        assert one_at_a_time(p, 8) == old * 8
        gate = Gate(tmp_path, f"gate{round_}")
        tenth = p.apply_async(tasks.pass_gate, (gate.path,))
        assert gate.await_tasks() == old
        next_one = p.apply_async(tasks.pid)
        wait_until(lambda: p.statistics().workers == 2, DEADLINE, "a successor")
        assert p.get_worker_pids() == old
        assert not next_one.ready()
        gate.open()
        tenth.get(DEADLINE)
        successor = [next_one.get(DEADLINE)]
        assert successor != old
        wait_until(lambda s=successor: p.get_worker_pids() == s, DEADLINE, "the worker has left")


def test_it_costs_little(pool):
    """Tasks of 1 ms on one worker, with and without (the aim is 1.2 times; this is a guard)."""

    def seconds(**options):
        p = pool(None, processes=1, **options)
        one_at_a_time(p, 2)
        start = time.monotonic()
        for r in [p.apply_async(pid_and_wait, (0.001,)) for _ in range(400)]:
            r.get(DEADLINE)
        return time.monotonic() - start

    assert min(seconds(maxtasksperchild=100) for _ in range(2)) < 2 * seconds() + 0.2


def test_a_task_that_is_taken_back_from_a_leaving_worker(pool, tmp_path):
    """The worker has been given all its tasks, but runs the first one for long."""
    gate = Gate(tmp_path)
    p = pool(None, processes=2, maxtasksperchild=4)
    long = p.apply_async(tasks.pass_gate, (gate.path, "done"))
    gate.await_tasks()
    assert [r.get(DEADLINE) for r in [p.apply_async(tasks.same, (i,)) for i in range(40)]] == list(
        range(40)
    )
    gate.open()
    assert long.get(DEADLINE) == "done"


def test_callbacks_and_recycling(pool):
    good = Calls()
    p = pool(10, processes=2, maxtasksperchild=3)
    for i in range(100):
        p.apply_async(tasks.same, (i,), callbacks=good)
    wait_until(lambda: at_rest(p), DEADLINE)
    assert sorted(good.values) == list(range(100))


def test_the_finalizer_of_a_recycled_worker(pool, tmp_path):
    log = tmp_path / "log"
    log.touch()
    p = pool(1, processes=1, maxtasksperchild=1, finalizer=Finish(str(log)))
    pids = one_at_a_time(p, 5)
    wait_until(lambda: len(log.read_text().split()) >= 4, DEADLINE)
    assert len(set(pids)) == 5
    assert set(map(int, log.read_text().split())) <= set(pids)
    p.close()
    assert p.join(DEADLINE)
    assert set(pids) <= set(map(int, log.read_text().split()))  # and of a successor


class Finish:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> None:
        tasks.append(self.path, str(os.getpid()))


def test_a_finalizer_that_raises(pool):
    p = pool(1, maxtasksperchild=1, finalizer=Raise())
    assert len(set(one_at_a_time(p, 4))) == 4
    assert p.statistics().failed == 0


class Raise:
    def __call__(self) -> None:
        sys.exit(4)


# ---- memory ----


def test_a_worker_that_has_grown_is_recycled_after_its_task(pool):
    p = pool(4, processes=1, context="spawn", max_memory_per_child=100 * MIB)
    (old,) = p.get_worker_pids()
    r = p.apply_async(keep, (150, 0.4))
    behind = [p.apply_async(tasks.same, (i,)) for i in range(3)]
    assert r.get(DEADLINE) == old  # undisturbed
    assert [b.get(DEADLINE) for b in behind] == [0, 1, 2]
    wait_until(lambda: p.get_worker_pids() and old not in p.get_worker_pids(), DEADLINE)
    wait_until(lambda: p.statistics().exits == {"memory": 1}, DEADLINE)
    assert p.apply_async(tasks.pid).get(DEADLINE) != old


def test_small_workers_stay(pool):
    p = pool(2, processes=1, context="spawn", max_memory_per_child=150 * MIB, memory_kill=300 * MIB)
    (old,) = p.get_worker_pids()
    assert p.apply_async(hold, (10, 0.3)).get(DEADLINE)
    assert p.get_worker_pids() == [old]


def test_large_arguments_do_not_count(pool):
    """They lie in memory that is shared with the parent."""
    p = pool(2, processes=1, context="spawn", max_memory_per_child=400 * MIB)
    (old,) = p.get_worker_pids()
    data = bytes(50_000_000)
    assert [p.apply_async(tasks.digest, (data,)).get(DEADLINE)[0] for _ in range(5)] == [
        50_000_000
    ] * 5
    assert p.get_worker_pids() == [old]


def test_memory_kill(pool):
    p = pool(4, processes=2, context="spawn", memory_kill=100 * MIB)  # nothing inherited
    others = [p.apply_async(tasks.same, (i,)) for i in range(2)]
    bad = Calls()
    r = p.apply_async(hold, (200, 20), errbacks=bad, meta="m")
    behind = p.apply_async(tasks.same, (3,))
    with pytest.raises(MemoryLimitExceeded) as caught:
        r.get(DEADLINE)
    error = caught.value
    assert error.used > error.limit == 100 * MIB
    assert (error.pid, error.tid) == (r.worker_pid, r.tid)
    assert bad.calls == [(error, "m")]
    assert [o.get(DEADLINE) for o in others] == [0, 1]
    assert behind.get(DEADLINE) == 3
    wait_until(lambda: p.statistics().exits == {"memory": 1}, DEADLINE)
    wait_until(lambda: len(p.get_worker_pids()) == 2, DEADLINE)
    bad.calls.clear()


# ---- while the parent's threads hold locks ----


@pytest.mark.timeout(60)
def test_recycling_while_threads_hold_locks(pool, tmp_path, monkeypatch, start_method):
    """500 workers; fewer where each imports afresh what the test's own process has loaded."""
    count = 500 if start_method == "fork" else 100
    names = [f"hammered_{start_method}_{i}" for i in range(3)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("import json\nvalue = list(range(100))\n")
    monkeypatch.syspath_prepend(tmp_path)
    log = logging.getLogger("hammered")
    handler = logging.FileHandler(tmp_path / "log.txt")
    log.addHandler(handler)
    log.propagate = False
    stop = threading.Event()
    errors: list[BaseException] = []

    def hammer(verb, *args):
        try:
            while not stop.wait(0.0005):
                verb(*args)
        except BaseException as error:
            errors.append(error)

    jobs = [(hammering.log, log)] * 3 + [(hammering.load, names)] + [(hammering.allocate,)] * 4
    threads = [threading.Thread(target=hammer, args=job) for job in jobs]
    with warnings.catch_warnings(record=True) as caught:
        p = pool(None, processes=2, maxtasksperchild=1)
        for thread in threads:
            thread.start()
        try:
            results = [p.apply_async(hammering.everything, (names,)) for _ in range(count)]
            pids = [r.get(40) for r in results]
        finally:
            stop.set()
            for thread in threads:
                thread.join(DEADLINE)
            log.removeHandler(handler)
            handler.close()
            for name in names:
                sys.modules.pop(name, None)
        assert len(set(pids)) == count
        wait_until(lambda: p.statistics().exits.get("recycled", 0) >= count, DEADLINE)
        assert set(p.statistics().exits) == {"recycled"}
    assert not errors
    assert [str(w.message) for w in caught] == []


def test_names(pool):
    p = pool(2, maxtasksperchild=1)
    names = {p.apply_async(process_name).get(DEADLINE) for _ in range(3)}
    assert len(names) == 3
    (pool_name,) = {name.rpartition("-worker-")[0] for name in names}
    assert pool_name.startswith("TaskPool-")
    other = pool(1)
    assert not other.apply_async(process_name).get(DEADLINE).startswith(pool_name + "-")


def process_name() -> str:
    import multiprocessing

    return multiprocessing.current_process().name


def test_the_name_in_ps(pool, monkeypatch, tmp_path):
    """With a setproctitle, and (as everywhere else here) without one."""
    (tmp_path / "setproctitle.py").write_text(
        "from pathlib import Path\n"
        f"def setproctitle(name): Path({str(tmp_path)!r}, 'title-' + name).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "setproctitle", raising=False)
    title_setter.cache_clear()  # looked for once in a process
    try:
        p = pool(1)
    finally:
        title_setter.cache_clear()
    name = p.apply_async(process_name).get(DEADLINE)
    pool_name, _, _ = name.partition("-worker-")
    assert (tmp_path / f"title-{name}").exists()
    assert (tmp_path / f"title-{pool_name}-template").exists()


# ---- the finalizer's arguments ----


class Told:
    """Its subclasses write what they are told."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, *args: object) -> None:
        tasks.append(self.path, " ".join(map(str, args)))


class ToldNothing(Told):
    def __call__(self) -> None:
        self.write()


class ToldOptionally(Told):
    def __call__(self, reason: str = "by default") -> None:
        self.write(reason)


class ToldPid(Told):
    def __call__(self, process: int) -> None:
        self.write(process)


class ToldBoth(Told):
    def __call__(self, process: int, status: int) -> None:
        self.write(process, status)


class ToldByName(Told):
    def __call__(self, pid: int | None = None, exitcode: int | None = None) -> None:
        self.write(pid, exitcode)


class ToldTooMuch(Told):
    def __call__(self, pid: int, exitcode: int, more: int) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "kind, text",
    [
        (ToldNothing, ""),
        (ToldOptionally, "by default"),
        (ToldPid, "{pid}"),
        (ToldBoth, "{pid} 0"),
        (ToldByName, "{pid} 0"),
    ],
)
def test_a_finalizer_is_told_what_its_signature_asks_for(tmp_path, kind, text):
    log = tmp_path / "log"
    with TaskPool(1, finalizer=kind(str(log)), context="fork") as p:
        pid = p.apply_async(tasks.pid).get(DEADLINE)
    assert log.read_text().strip() == text.format(pid=pid)


def test_a_finalizer_that_wants_more():
    with pytest.raises(TypeError, match="more"):
        TaskPool(1, finalizer=ToldTooMuch(""))
