"""close, join, terminate and drain: bounded, and nothing in flight without an end."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import limit_targets
import tasks
from celery_pool import PoolClosed, PoolError, PoolTerminated, TaskPool
from guards import Belongings, wait_until
from support import DEADLINE, Background, Calls, Gate, at_rest, is_gone, stays, took
from usage import resident_kib

#: How many pools are made and ended; more by this variable.
MANY_POOLS = int(os.environ.get("CELERY_POOL_MANY_POOLS", "100"))


def gone(pids):
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE, f"process {pid} is gone")


def terminated(results):
    """All of them have ended so."""
    for r in results:
        assert r.ready()
        with pytest.raises(PoolTerminated) as caught:
            r.get(0)
        assert caught.value.tid == r.tid


# ---- close and join ----


def test_close_and_join_drain(pool, start_method):
    p = pool(None, processes=2)
    workers = p.get_worker_pids()
    calls = Calls()
    results = [p.apply_async(tasks.same, (i,), callbacks=calls) for i in range(6000)]
    p.close()
    with pytest.raises(PoolClosed):
        p.apply_async(tasks.nothing)
    assert p.join(DEADLINE) is True
    assert sorted(calls.values) == list(range(6000))
    assert all(r.ready() for r in results)
    gone(workers)
    assert p.get_worker_pids() == []
    assert p.statistics().exits == {"stopped": 2}


@pytest.mark.parametrize("timeout", [0, -1, 0.3])
def test_join_gives_up_in_time(pool, gate, timeout):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, 1))
    p.close()
    start = time.monotonic()
    assert p.join(timeout) is False
    assert max(0, timeout) <= took(start, max(0, timeout) + 0.5)
    gate.open()
    assert p.join(DEADLINE) is True
    assert r.get(0) == 1


@pytest.mark.parametrize("timeout", [1e7, 1e12, float("inf")])
def test_join_with_a_long_timeout(pool, timeout):
    p = pool(1)
    p.close()
    assert Background(p.join, timeout).result() is True


# ---- terminate ----


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_terminate_from_a_callback(pool, gate, tmp_path, mode):
    first = Gate(tmp_path, "first")  # so that the callback comes after all submissions
    p = pool(10, processes=2, callbacks_in=mode)
    bad, seconds = Calls(), []

    def callback(value, meta):
        start = time.monotonic()
        p.terminate()
        seconds.append(time.monotonic() - start)

    p.apply_async(tasks.pass_gate, (first.path,), callbacks=callback)
    results = [p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad) for _ in range(5)]
    first.open()
    Background(lambda: p.wait_for_result() if mode == "caller" else None).result()
    wait_until(lambda: seconds, DEADLINE, "terminate() has returned")
    assert seconds[0] < 3
    Background(p.join).result()
    terminated(results)
    assert len(bad) == 5


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_terminate_from_another_thread_frees_every_waiter(pool, gate, mode):
    p = pool(3, processes=1, callbacks_in=mode)
    results = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(3)]
    gate.await_tasks()
    getters = [Background(r.get) for r in results]
    waiters = [Background(r.wait) for r in results]
    submitters = [Background(p.apply_async, tasks.nothing) for _ in range(3)]
    others = [Background(p.wait_for_result), Background(p.reap, 600)]
    everybody = getters + waiters + submitters + others
    assert stays(lambda: not any(b.done for b in everybody), 0.1)
    start = time.monotonic()
    Background(p.terminate).result()
    took(start, 3)
    for getter in getters + submitters:
        with pytest.raises(PoolTerminated):
            getter.result()
    for waiter in waiters + others:
        waiter.result()
    assert Background(p.join).result() is True
    terminated(results)


def test_terminate_frees_those_who_join(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    p.close()
    joiners = [Background(p.join), Background(p.join, 600), Background(p.drain)]
    assert stays(lambda: not any(j.done for j in joiners), 0.1)
    Background(p.terminate).result()
    assert [j.result() for j in joiners[:2]] == [True, True]
    joiners[2].result()
    terminated([r])


def test_terminate_by_two_threads(pool, gate):
    p = pool(4, processes=2)
    bad = Calls()
    results = [p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad) for _ in range(4)]
    threads = [Background(p.terminate) for _ in range(2)]
    for thread in threads:
        thread.result()
    p.terminate()
    terminated(results)
    assert len(bad) == 4


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_terminate_with_ten_thousand_queued(pool, gate, mode):
    p = pool(None, processes=2, callbacks_in=mode)
    bad = Calls()
    results = [
        p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad, meta=i) for i in range(10_000)
    ]
    gate.await_tasks(2)
    start = time.monotonic()
    Background(p.terminate).result()
    took(start, 5)
    terminated(results)
    assert sorted(meta for _, meta in bad.calls) == list(range(10_000))


@pytest.mark.parametrize("direction", ["result", "arguments"])
def test_terminate_while_a_long_payload_is_on_its_way(pool, direction):
    size = 50_000_000
    for delay in (0.005, 0.02, 0.04, 0.08):
        p = pool(3, processes=2)
        data = bytes(size) if direction == "arguments" else b""
        target, args = (tasks.zeros, (size,)) if direction == "result" else (tasks.digest, (data,))
        results = [p.apply_async(target, args) for _ in range(2)]
        time.sleep(delay)
        start = time.monotonic()
        Background(p.terminate).result()
        took(start, 3)
        for r in results:
            assert r.ready()
            if r.successful():
                assert r.get() in (bytes(size), tasks.digest(data))
            else:
                terminated([r])


@pytest.mark.parametrize("how", ["stopped", "stopped while it works", "deaf", "deaf in c"])
def test_terminate_of_workers_that_do_not_listen(pool, tmp_path, how):
    p = pool(2, processes=1)
    mark = str(tmp_path / "mark")
    workers = p.get_worker_pids()
    results = []
    if how != "stopped":
        kind = "c" if how == "deaf in c" else "sleep"
        results.append(p.apply_async(limit_targets.endless, (kind, mark, how.startswith("deaf"))))
        tasks.wait_for_file(mark)
    if how.startswith("stopped"):
        os.kill(workers[0], signal.SIGSTOP)
    results.append(p.apply_async(tasks.nothing))
    start = time.monotonic()
    Background(p.terminate).result()
    took(start, 3)
    gone(workers)
    terminated(results)


def test_terminate_while_a_worker_is_being_ended(pool, tmp_path):
    """Within the grace of a time limit: the task keeps its own end."""
    p = pool(2, processes=1, kill_grace=30)
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark, True))
    tasks.wait_for_file(mark)
    assert r.terminate()
    behind = p.apply_async(tasks.nothing)
    start = time.monotonic()
    Background(p.terminate).result()
    took(start, 3)
    with pytest.raises(PoolError):
        r.get(0)
    assert behind.ready()


def test_terminate_while_workers_are_being_replaced(pool):
    for delay in range(8):
        p = pool(4, processes=2)
        for pid in p.get_worker_pids():
            os.kill(pid, signal.SIGKILL)
        results = [p.apply_async(time.sleep, (60,)) for _ in range(2)]
        time.sleep(delay / 1000)
        start = time.monotonic()
        Background(p.terminate).result()
        took(start, 3)
        terminated(results)


def test_terminate_when_the_template_does_not_answer(pool, gate):
    p = pool(2)
    workers = p.get_worker_pids()
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    template = p._supervisor.roster.template.pid
    os.kill(template, signal.SIGSTOP)
    start = time.monotonic()
    Background(p.terminate).result(20)
    took(start, 8)
    terminated([r])
    gone([*workers, template])


# ---- drain ----


def test_drain_that_finishes(pool):
    p = pool(None, processes=2)
    calls = Calls()
    for i in range(300):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    report = p.drain(DEADLINE)
    assert (report.not_started, report.running) == ([], [])
    assert 0 <= report.finished <= 300
    assert len(calls) == 300
    assert p.get_worker_pids() == []
    with pytest.raises(PoolError):
        p.apply_async(tasks.nothing)
    assert p.join() is True


def test_drain_without_a_timeout(pool):
    p = pool(4, processes=2)
    r = p.apply_async(time.sleep, (0.2,))
    report = p.drain()
    assert (report.not_started, report.running) == ([], [])
    assert r.successful()


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_drain_that_runs_out_of_time(pool, gate, tmp_path, mode):
    log = str(tmp_path / "log")
    p = pool(None, processes=2, callbacks_in=mode)
    bad = Calls()
    running = [
        p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad, meta=f"running {i}")
        for i in range(2)
    ]
    gate.await_tasks(2)
    queued = [p.apply_async(tasks.append, (log, "x"), errbacks=bad, meta=i) for i in range(5000)]
    start = time.monotonic()
    report = Background(p.drain, 0.3).result()
    assert took(start, 4) >= 0.3
    assert report.finished == 0
    assert sorted(report.running) == ["running 0", "running 1"]
    assert sorted(report.not_started) == list(range(5000))
    terminated(running + queued)
    assert len(bad) == 5002
    assert not os.path.exists(log)


def test_drain_counts_what_finished_meanwhile(pool, gate):
    p = pool(None, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    for _ in range(10):
        p.apply_async(tasks.nothing)
    p.apply_async(time.sleep, (60,), meta="long")
    p.apply_async(tasks.nothing, meta="last")
    drainer = Background(p.drain, 1)
    wait_until(lambda: "closed" in repr(p), DEADLINE)
    gate.open()
    report = drainer.result()
    assert (report.finished, report.running, report.not_started) == (11, ["long"], ["last"])


@pytest.mark.parametrize("seconds", [0, 0.0005])
def test_the_report_is_exact_whenever_it_is_made(pool, tmp_path, seconds):
    """Also for tasks that end at that very moment."""
    for round_ in range(20):
        log = str(tmp_path / f"log{round_}")
        p = pool(None, processes=2)
        results = {
            i: p.apply_async(limit_targets.recorded, (log, i, seconds, False), meta=i)
            for i in range(300)
        }
        before = p.statistics().succeeded
        report = p.drain(0.001 + round_ * 0.0005)
        succeeded = {i for i, r in results.items() if r.successful()}
        assert not succeeded & set(report.running)
        assert not succeeded & set(report.not_started)
        assert len(succeeded) + len(report.running) + len(report.not_started) == 300
        assert 0 <= len(succeeded) - report.finished - before < 300
        terminated([results[i] for i in (*report.running, *report.not_started)])
        started = set()
        if os.path.exists(log):
            started = {int(line.split()[1]) for line in Path(log).read_text().splitlines()}
        assert not started & set(report.not_started)


def test_drain_inside_a_callback(pool):
    p = pool(1)
    seen = Calls()

    def callback(value, meta):
        try:
            p.drain(1)
        except PoolError as error:
            seen(str(error))

    p.apply_async(tasks.nothing, callbacks=callback)
    seen.wait()
    assert "callback" in seen.values[0]


# ---- many ----


@pytest.mark.timeout(60 + MANY_POOLS)
def test_many_pools_one_after_the_other():
    """Same threads, descriptors, shared memory; and memory."""
    bad = Calls()

    def one(i):
        p = TaskPool(4, processes=1, context="fork")
        p.run()
        p.apply_async(tasks.same, (i,)).get(DEADLINE)
        if i % 2:
            p.close()
            assert p.join(DEADLINE)
        else:
            p.apply_async(time.sleep, (60,), errbacks=bad)
            p.terminate()

    def settled():
        gc.collect()
        return Belongings.now()

    for i in range(20):
        one(i)
    before, memory = settled(), resident_kib()
    for i in range(MANY_POOLS):
        one(i)
    after = settled()
    assert after.beyond(before) == []
    assert threading.active_count() == len(before.threads)
    grown = resident_kib() - memory
    print(f"{MANY_POOLS} pools: {grown} KiB more")
    assert grown < 1000 + MANY_POOLS
    assert len(bad) == 10 + (MANY_POOLS + 1) // 2


def test_many_pools_at_once(pool):
    """One's end does not touch the others."""
    pools = [pool(2, processes=1) for _ in range(6)]
    for p in pools[::2]:
        p.terminate()
    for i, p in enumerate(pools[1::2]):
        assert p.apply_async(tasks.same, (i,)).get(DEADLINE) == i
    wait_until(lambda: all(at_rest(p) for p in pools), DEADLINE)
