"""Threads that wait for a slot: first come, first served, and nobody starves."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from concurrent.futures import Future

import tasks
from celery_pool import PoolFull
from guards import wait_until
from processes import sleeps
from support import DEADLINE, Background, Gate

THREADS = 16


def waiting(p):
    """How many threads sleep inside the pool."""
    return p._core.waiters - 1  # the reaper is one


def test_first_come_first_served(pool, gate):
    p = pool(1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    served = []

    def submit(i):
        p.apply_async(tasks.nothing, callbacks=[lambda r, m: served.append(m)], meta=i)

    threads = []
    for i in range(THREADS):
        threads.append(threading.Thread(target=submit, args=(i,)))
        threads[-1].start()
        wait_until(lambda n=i + 1: waiting(p) == n, DEADLINE, "one more waits")
    gate.open()
    first.get(DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    p.close()
    assert p.join(DEADLINE)
    assert served == list(range(THREADS))


def test_nobody_starves(pool):
    """Threads that submit in loops, one slot."""
    p = pool(1)
    done = [0] * THREADS
    enough = threading.Event()

    def submit(i):
        while not enough.is_set():
            p.apply_async(tasks.nothing)
            done[i] += 1

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(done) >= 20, DEADLINE, f"all come to their turn: {done}")
    finally:
        enough.set()
        for thread in threads:
            thread.join(DEADLINE)


def test_one_that_gives_up_hands_on(pool, tmp_path):
    """The first who waits leaves, by slot_timeout; the next is not forgotten."""
    gate = Gate(tmp_path)
    p = pool(1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    gave_up = threading.Event()

    def impatient():
        try:
            p.apply_async(tasks.nothing, slot_timeout=0.05)
        except Exception:
            gave_up.set()

    one = threading.Thread(target=impatient)
    one.start()
    wait_until(lambda: waiting(p) == 1 or gave_up.is_set(), DEADLINE)
    results = []
    other = threading.Thread(target=lambda: results.append(p.apply_async(tasks.same, (7,))))
    other.start()
    assert gave_up.wait(DEADLINE)
    gate.open()
    other.join(DEADLINE)
    assert results[0].get(DEADLINE) == 7
    first.get(DEADLINE)
    one.join(DEADLINE)


def test_one_that_sleeps_at_the_doorbell_comes_first(pool, gate, tmp_path):
    """It has to be given the GIL before it can take the slot; until then nobody else may."""
    p = pool(1)
    second = Gate(tmp_path, "second")
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    served = []
    one = threading.Thread(
        target=lambda: served.append(p.apply_async(tasks.pass_gate, (second.path, 7)))
    )
    one.start()
    wait_until(lambda: waiting(p) == 1 and sleeps(os.getpid(), one.native_id), DEADLINE)
    end = time.monotonic() + DEADLINE
    barged = False
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        gate.open()
        while not (served or p._core.in_flight == 0 or time.monotonic() > end):
            with contextlib.suppress(PoolFull):
                p.apply_async(tasks.nothing, block=False)
                barged = True
                break
    finally:
        sys.setswitchinterval(interval)
    second.open()
    one.join(DEADLINE)
    assert served[0].get(DEADLINE) == 7
    first.get(DEADLINE)
    assert not barged


def test_a_foreign_result_is_added_in_its_turn(pool, gate):
    """And does not make way for who waits behind it."""
    p = pool(1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    future = Future()
    one = Background(p.add, future)
    wait_until(lambda: waiting(p) == 1, DEADLINE)
    other = Background(p.apply_async, tasks.same, (7,))
    wait_until(lambda: waiting(p) == 2, DEADLINE)
    time.sleep(0.02)  # both have waited for so long that their order counts
    gate.open()
    one.result()
    assert not other.done  # the slot is the future's
    future.set_result(None)
    assert other.result().get(DEADLINE) == 7
    first.get(DEADLINE)
