"""Bounds: block=False, slot_timeout, max_bytes; memory stays flat."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import threading
import time
from pathlib import Path

import pytest

import tasks
from celery_pool import PayloadTooLarge, PoolError, PoolFull, PoolTerminated, TaskPool
from guards import wait_until
from segments import argument_bytes
from support import DEADLINE, Background, Calls, at_rest, stays, took
from usage import resident_kib

KIB = 1024


# ---- block, slot_timeout ----


def fill(p, gate):
    first = p.apply_async(tasks.pass_gate, (gate.path, 0))
    gate.await_tasks()
    return [first, *(p.apply_async(tasks.same, (i,)) for i in range(1, p.limit))]


@pytest.mark.parametrize(
    "options", [{"block": False}, {"slot_timeout": 0}, {"slot_timeout": -1},
                {"block": False, "slot_timeout": 60}]
)  # fmt: skip
def test_a_full_pool_refuses_at_once(pool, gate, options):
    p = pool(3, processes=1)
    results = fill(p, gate)
    start = time.monotonic()
    with pytest.raises(PoolFull) as caught:
        p.apply_async(tasks.nothing, **options)
    took(start, 0.5)
    assert isinstance(caught.value, queue.Full)
    assert isinstance(caught.value, PoolError)
    assert p.statistics().submitted == 3
    gate.open()
    assert [r.get(DEADLINE) for r in results] == [0, 1, 2]
    assert p.apply_async(tasks.same, (5,), **options).get(DEADLINE) == 5


def test_slot_timeout(pool, gate):
    p = pool(1)
    results = fill(p, gate)
    start = time.monotonic()
    with pytest.raises(PoolFull):
        p.apply_async(tasks.nothing, slot_timeout=0.3)
    assert took(start, 1.5) >= 0.3
    submitter = Background(p.apply_async, tasks.same, (5,), slot_timeout=DEADLINE)
    assert stays(lambda: not submitter.done, 0.1)
    gate.open()
    assert submitter.result().get(DEADLINE) == 5
    assert results[0].get(DEADLINE) == 0


def test_slot_timeout_without_end(pool, gate):
    p = pool(1)
    fill(p, gate)
    submitters = [
        Background(p.apply_async, tasks.same, (i,), slot_timeout=timeout)
        for i, timeout in enumerate((None, float("inf"), 1e12))
    ]
    assert stays(lambda: not any(s.done for s in submitters), 0.1)
    gate.open()
    assert [s.result().get(DEADLINE) for s in submitters] == [0, 1, 2]


def test_slot_timeout_ends_with_the_pool(pool, gate):
    p = pool(1)
    fill(p, gate)
    submitter = Background(p.apply_async, tasks.nothing, slot_timeout=60)
    assert stays(lambda: not submitter.done, 0.05)
    p.terminate()
    with pytest.raises(PoolTerminated):
        submitter.result()


def test_not_blocking_leaves_nothing_behind(pool, gate):
    """Long arguments, too: the next ones take their place, and later it is given back."""
    p = pool(1)
    fill(p, gate)
    used = argument_bytes(p)
    for _ in range(20):
        with pytest.raises(PoolFull):
            p.apply_async(tasks.digest, (bytes(1_000_000),), block=False)
    assert argument_bytes(p) <= used + 1_050_000
    wait_until(lambda: argument_bytes(p) <= used, DEADLINE)
    gate.open()


@pytest.mark.parametrize("value", ["1", float("nan"), object()])
def test_bad_slot_timeouts(pool, value):
    p = pool(1)
    with pytest.raises((TypeError, ValueError)):
        p.apply_async(tasks.nothing, slot_timeout=value)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_not_blocking_in_a_callback(pool, gate):
    p = pool(2, processes=1)
    seen = Calls()

    def callback(value, meta):
        p.apply_async(tasks.pass_gate, (gate.path,), block=False)
        p.apply_async(tasks.pass_gate, (gate.path,), block=False)
        try:
            p.apply_async(tasks.nothing, block=False)
        except PoolFull as error:
            seen(type(error))

    p.apply_async(tasks.nothing, callbacks=callback)
    seen.wait()
    gate.open()


# ---- max_bytes ----


def payload(p):
    return p._core.bytes_in_flight


@pytest.mark.parametrize("size", [1000, 100_000])
def test_max_bytes_waits(pool, gate, size):
    """In the ring or beside it."""
    p = pool(None, processes=1, max_bytes=3 * size)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    data = bytes(size - 300)
    results = [p.apply_async(tasks.digest, (data,)) for _ in range(2)]
    assert size < payload(p) <= 3 * size
    with pytest.raises(PoolFull):
        p.apply_async(tasks.digest, (bytes(2 * size),), block=False)
    submitter = Background(p.apply_async, tasks.digest, (bytes(2 * size),))
    small = p.apply_async(tasks.same, (1,))  # there is room for it
    assert stays(lambda: not submitter.done, 0.1)
    gate.open()
    assert submitter.result().get(DEADLINE)[0] == 2 * size
    assert small.get(DEADLINE) == 1
    assert [r.get(DEADLINE)[0] for r in results] == [len(data)] * 2
    wait_until(lambda: payload(p) == 0, DEADLINE)


def test_payload_too_large(pool):
    p = pool(4, processes=1, max_bytes=10_000)
    with pytest.raises(PayloadTooLarge, match="10000") as caught:
        p.apply_async(tasks.digest, (bytes(10_001),))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PoolError)
    assert p.statistics().submitted == 0
    assert payload(p) == 0
    assert p.apply_async(tasks.digest, (bytes(9000),)).get(DEADLINE)[0] == 9000


def test_max_bytes_is_never_exceeded(pool):
    bound = 50_000
    p = pool(None, processes=2, max_bytes=bound)
    most, done = 0, False

    def watch():
        nonlocal most
        while not done:
            most = max(most, payload(p))
            time.sleep(0)

    def submit(seed):
        for i in range(1500):
            p.apply_async(tasks.digest, (bytes((seed * 7919 + i * 104729) % 20_000),))

    watcher = Background(watch)
    for thread in [Background(submit, i) for i in range(4)]:
        thread.result(30)
    wait_until(lambda: at_rest(p), DEADLINE)
    done = True
    watcher.result()
    assert 20_000 < most <= bound
    assert payload(p) == 0
    assert p.statistics().succeeded == 6000


@pytest.mark.parametrize("size", [2000, 200_000], ids=["in the ring", "beside the ring"])
@pytest.mark.parametrize(
    "end", ["failure", "cancel", "death", "time limit", "terminate", "expires", "pool", "backlog"]
)
def test_bytes_are_given_back_at_every_end(pool, gate, end, size):
    p = pool(None, processes=1, max_bytes=20 * size)
    data = bytes(size)
    for _ in range(2):
        if end == "failure":
            r = p.apply_async(tasks.fail, (ValueError, data))
        elif end == "death":
            r = p.apply_async(tasks.pass_gate, (gate.path, data))
            (pid,) = gate.await_tasks()
            os.kill(pid, signal.SIGKILL)
            for path in Path(gate.path).parent.glob("gate.at.*"):
                path.unlink()
        elif end == "time limit":
            r = p.apply_async(tasks.pass_gate, (gate.path, data), timeout=0.1)
        else:
            blocker = p.apply_async(time.sleep, (0.3,))
            wait_until(lambda b=blocker: b.worker_pid, DEADLINE)
            if end == "backlog":
                for _ in range(4500):
                    p.apply_async(tasks.nothing)
            r = p.apply_async(tasks.digest, (data,), expires=0.05 if end == "expires" else None)
            assert payload(p) > size
            if end in ("cancel", "backlog"):
                assert r.cancel()
            elif end == "terminate":
                assert r.terminate()
            elif end == "pool":
                p.terminate()
        r.wait(DEADLINE)
        assert r.ready()
        if end == "pool":
            break
    wait_until(lambda: at_rest(p), DEADLINE)
    assert payload(p) == 0
    if end != "pool":
        # all of it is to be had again
        assert p.apply_async(tasks.digest, (bytes(19 * size),)).get(DEADLINE)[0] == 19 * size
        wait_until(lambda: argument_bytes(p) < 40 * size + 64 * KIB, DEADLINE)


@pytest.mark.parametrize("value", [0, -5, 1.5, "1"])
def test_bad_max_bytes(value):
    with pytest.raises((TypeError, ValueError)):
        TaskPool(1, context="fork", max_bytes=value)


def test_many_wait_for_bytes(pool, gate):
    """Each takes its turn; a small one need not wait for a large one for ever."""
    p = pool(None, processes=1, max_bytes=10_000)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    filler = p.apply_async(tasks.digest, (bytes(9000),))
    submitters = [
        Background(p.apply_async, tasks.digest, (bytes(n),)) for n in (9000, 2000, 5000, 100, 9500)
    ]
    assert stays(lambda: not all(s.done for s in submitters), 0.05)
    gate.open()
    assert sorted(s.result().get(DEADLINE)[0] for s in submitters) == [100, 2000, 5000, 9000, 9500]
    assert filler.get(DEADLINE)[0] == 9000


# ---- memory ----


def growth(submissions, warm_up, pause=lambda i: None):
    """KiB gained by the submissions after the first `warm_up`."""
    before = 0
    for i, submit in enumerate(submissions):
        if i == warm_up:
            before = resident_kib()
        submit()
        pause(i)
    return resident_kib() - before


@pytest.mark.parametrize("mode", ["any", "reaper"])
def test_an_endless_generator_does_not_grow_memory(pool, mode):
    p = pool(64, processes=2, callbacks_in=mode)
    done = 0

    def callback(value, meta):
        nonlocal done
        done += 1

    def endless():
        for i in itertools.count():
            yield lambda i=i: p.apply_async(
                tasks.same, (i,), callbacks=callback, meta={"number": i}
            )

    count = 60_000
    grown = growth(itertools.islice(endless(), count), 20_000)
    print(f"40,000 tasks: {grown} KiB more")
    assert grown < 2000  # 50 bytes a task
    wait_until(lambda: done == count, DEADLINE)


def test_an_endless_generator_of_long_arguments(pool):
    """Without a limit on their number; with one on their bytes."""
    p = pool(None, processes=2, max_bytes=2_000_000)
    data = bytes(100_000)
    grown = growth((lambda: p.apply_async(tasks.digest, (data,)) for _ in range(1500)), 300)
    print(f"1,200 tasks of 100 kB: {grown} KiB more")
    assert grown < 8000
    assert argument_bytes(p) < 2_000_000 + 64 * KIB
    wait_until(lambda: at_rest(p), DEADLINE)


@pytest.mark.parametrize("mode", ["any", "reaper"])
def test_slow_callbacks_do_not_grow_memory(pool, mode):
    """Results wait in the workers then, and the submitter with them."""
    p = pool(8, processes=2, callbacks_in=mode)
    most = 0

    def slow(value, meta):
        nonlocal most
        most = max(most, p.statistics().waiting_callbacks)
        time.sleep(0.002)

    grown = growth(
        (lambda: p.apply_async(tasks.zeros, (200_000,), callbacks=slow) for _ in range(500)), 100
    )
    print(f"400 results of 200 kB behind slow callbacks: {grown} KiB more")
    assert grown < 20_000  # of 80 MB
    assert most <= 2 * p.limit
    wait_until(lambda: at_rest(p), DEADLINE)


def test_a_callback_that_blocks_for_long(pool):
    """Submitting stops, and goes on after it."""
    p = pool(4, processes=2, callbacks_in="reaper")
    go_on = threading.Event()
    submitter = Background(
        lambda: [
            p.apply_async(tasks.same, (i,), callbacks=lambda *_: go_on.wait(DEADLINE))
            for i in range(40)
        ]
    )
    wait_until(lambda: p.statistics().waiting_callbacks >= 4, DEADLINE)
    submitted = p.statistics().submitted
    assert stays(lambda: p.statistics().submitted <= submitted + p.limit)
    assert p.statistics().submitted < 20
    go_on.set()
    submitter.result()
    wait_until(lambda: at_rest(p), DEADLINE)
    assert p.statistics().succeeded == 40
