"""AsyncResult: multiprocessing's semantics, plus tid, meta and worker_pid."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.pool
import pickle
import threading
import time
import weakref
from multiprocessing.pool import RemoteTraceback

import pytest

import tasks
from celery_pool import AsyncResult, WorkerLostError
from guards import wait_until
from support import DEADLINE, Background, Calls, collected, took


def test_before_and_after(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, "value"))
    assert not r.ready()
    with pytest.raises(ValueError, match="not ready"):
        r.successful()
    assert r.wait(0.02) is None
    with pytest.raises(multiprocessing.TimeoutError):
        r.get(timeout=0.02)
    with pytest.raises(multiprocessing.TimeoutError):
        r.get(0)
    gate.open()
    assert r.wait() is None
    assert r.ready()
    assert r.successful() is True
    assert r.get() == r.get(0) == r.get(timeout=1) == "value"
    assert r.wait(0) is None


def test_timeouts_are_kept(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    for timeout in (0.1, 0):
        start = time.monotonic()
        r.wait(timeout)
        assert timeout <= took(start, timeout + 2)
    start = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        r.get(timeout=-1)
    took(start, 2)
    gate.open()


@pytest.mark.parametrize("timeout", [1e12, float("inf"), 10**30], ids=repr)
def test_endless_timeouts(pool, timeout):
    assert pool(1).apply_async(tasks.same, (1,)).get(timeout) == 1


@pytest.mark.parametrize(("timeout", "error"), [(float("nan"), ValueError), ("1", TypeError)])
def test_bad_timeouts(pool, gate, timeout, error):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    with pytest.raises(error):
        r.get(timeout)
    gate.open()
    r.get(DEADLINE)


def test_failure(pool, start_method):
    r = pool(1).apply_async(tasks.fail_deeply, ("deep",))
    r.wait(DEADLINE)
    assert r.ready()
    assert r.successful() is False
    for _ in range(2):
        with pytest.raises(ValueError, match="deep") as caught:
            r.get(DEADLINE)
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "the_innermost_function" in str(cause)


def test_passes_for_multiprocessings(pool):
    r = pool(1).apply_async(tasks.nothing)
    assert isinstance(r, multiprocessing.pool.AsyncResult)
    assert isinstance(r, multiprocessing.pool.ApplyResult)
    assert isinstance(r, AsyncResult)
    assert not isinstance(r, multiprocessing.pool.MapResult)
    for name in ("get", "wait", "ready", "successful"):
        assert callable(getattr(r, name))


def test_is_made_by_apply_async_only():
    with pytest.raises(TypeError):
        AsyncResult()
    with pytest.raises(TypeError):
        AsyncResult(None, None)


def test_cannot_be_pickled_or_copied(pool):
    r = pool(1).apply_async(tasks.nothing)
    with pytest.raises(TypeError):
        pickle.dumps(r)


def test_weak_references(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    ended = []
    ref = weakref.ref(r, ended.append)
    in_flight = weakref.WeakValueDictionary({r.tid: r})
    assert ref() is r
    del r
    gc.collect()
    assert ref() is not None  # the pool holds it
    gate.open()
    p.close()
    assert p.join(DEADLINE)
    gc.collect()
    assert ref() is None
    assert len(ended) == 1
    assert not in_flight


def test_hash_and_equality_by_identity(pool):
    p = pool(1)
    one, two = p.apply_async(tasks.nothing), p.apply_async(tasks.nothing)
    assert len({one, two, one}) == 2
    assert one != two


def test_tids(pool):
    p = pool(10, processes=1)
    results = [p.apply_async(tasks.nothing) for _ in range(100)]
    tids = [r.tid for r in results]
    assert len(set(tids)) == 100
    assert all(isinstance(tid, int) for tid in tids)
    for r in results:
        r.get(DEADLINE)
    assert [r.tid for r in results] == tids


def test_attributes_are_read_only(pool):
    r = pool(1).apply_async(tasks.nothing)
    for name in ("tid", "meta", "worker_pid"):
        with pytest.raises(AttributeError):
            setattr(r, name, 1)


def test_worker_pid(pool, gate, start_method):
    p = pool(2, processes=1)
    running = p.apply_async(tasks.pass_gate, (gate.path,))
    queued = p.apply_async(tasks.nothing)
    (worker,) = p.get_worker_pids()
    wait_until(lambda: running.worker_pid, DEADLINE)
    assert running.worker_pid == worker
    assert queued.worker_pid is None
    gate.open()
    queued.get(DEADLINE)
    assert running.worker_pid == queued.worker_pid == worker


def test_worker_pid_of_the_lost(pool):
    p = pool(1)
    (worker,) = p.get_worker_pids()
    r = p.apply_async(tasks.die)
    with pytest.raises(WorkerLostError):
        r.get(DEADLINE)
    assert r.worker_pid == worker


def test_worker_pid_of_what_never_started(pool, gate):
    p = pool(2, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    queued = p.apply_async(tasks.nothing)
    p.terminate()
    assert queued.ready()
    assert queued.worker_pid is None


def test_get_helps_to_reap(pool, gate):
    """While it waits for one, others are collected: their slots are free."""
    p = pool(3, processes=2, callbacks_in="caller")
    slow = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    getter = Background(slow.get, DEADLINE)
    other = p.apply_async(tasks.nothing, callbacks=Calls())
    collected(p, 1)
    assert not other.ready()
    gate.open()
    getter.result()
    p.reap()


def test_many_threads_wait_for_one(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, [1]), callbacks=Calls())
    getters = [Background(r.get, DEADLINE) for _ in range(8)]
    gate.open()
    values = [g.result() for g in getters]
    assert all(value is values[0] for value in values)  # decoded once


def test_one_thread_waits_for_many_in_reverse(pool):
    p = pool(300, processes=2)
    results = [p.apply_async(tasks.same, (i,)) for i in range(300)]
    assert [r.get(DEADLINE) for r in reversed(results)] == list(reversed(range(300)))


def test_use_after_the_pool_has_ended(pool, gate):
    p = pool(2, processes=1)
    calls = Calls()
    done = p.apply_async(tasks.same, ("x" * 100_000,))
    failed = p.apply_async(tasks.fail, (ValueError, "v"), errbacks=calls)
    p.close()
    assert p.join(DEADLINE)
    p.run()
    assert done.get(DEADLINE) == "x" * 100_000
    with pytest.raises(ValueError, match="v"):
        failed.get()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_use_after_the_pool_is_gone():
    from celery_pool import TaskPool

    with TaskPool(1, context="fork") as p:
        r = p.apply_async(tasks.pattern, (3_000_000,))
    del p
    gc.collect()
    assert r.get(DEADLINE) == tasks.pattern(3_000_000)


def test_repr_says_what_it_is(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    assert str(r.tid) in repr(r)
    assert "pending" in repr(r)
    gate.open()
    r.get(DEADLINE)
    assert "succeeded" in repr(r)


def test_interrupting_get(pool, gate):
    """A signal handler runs inside the wait and may raise."""
    import os
    import signal

    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()

    class Alarm(Exception):
        pass

    def handler(signum, frame):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        start = time.monotonic()
        with pytest.raises(Alarm):
            r.get(DEADLINE)
        took(start, 3)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    gate.open()
    assert r.get(DEADLINE) == 1
