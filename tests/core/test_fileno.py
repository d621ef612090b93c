"""An event loop drives a pool by its descriptor: `fileno()` and `reap(timeout=0)`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import select
import selectors
import signal
import threading
import time
import warnings
from typing import Any

import pytest

import tasks
from celery_pool import (
    PoolError,
    TaskCancelled,
    TaskExpired,
    TaskPool,
    TaskTerminated,
    TimeLimitExceeded,
    WorkerLostError,
    WrongProcess,
)
from celery_pool._poolcore import PoolState
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, collected
from usage import SLACK, used


@pytest.fixture
def loop_pool(pool):
    """A pool for an event loop."""

    def make(limit: int | None = 2, **options: Any) -> TaskPool:
        return pool(limit, callbacks_in="caller", **options)

    return make


def readable(pool: TaskPool, timeout: float = 0) -> bool:
    return bool(select.select([pool.fileno()], [], [], timeout)[0])


def settle(pool: TaskPool) -> None:
    """What a loop does with wake-ups that have no reason any more."""
    while readable(pool):
        pool.reap(timeout=0)


def drive(pool: TaskPool, calls: Calls, count: int) -> None:
    """The loop: sleeps at the descriptor until so many callbacks have been called."""
    while len(calls) < count:
        assert readable(pool, DEADLINE), f"nothing to be heard of {pool!r}"
        pool.reap(timeout=0)


# ---- what makes it readable


def test_it_is_the_same_one(loop_pool):
    p = loop_pool()
    fd = p.fileno()
    assert p.fileno() == fd
    assert not os.get_inheritable(fd)
    settle(p)
    p.apply_async(tasks.nothing)
    assert select.select([p], [], [], DEADLINE)[0] == [p]


@pytest.mark.parametrize("mode", ["any", "reaper"])
def test_callbacks_must_not_run_elsewhere(pool, mode):
    p = pool(1, callbacks_in=mode)
    with pytest.raises(PoolError, match="callbacks_in='caller'"):
        p.fileno()


def test_a_result(loop_pool, start_method):
    p = loop_pool()
    settle(p)
    assert not readable(p)
    calls = Calls()
    p.apply_async(tasks.same, (1,), callbacks=calls, meta="m")
    reaped = 0
    while not reaped:
        assert readable(p, DEADLINE)
        assert readable(p)  # until reap()
        assert calls.calls == []
        reaped = p.reap(timeout=0)
    assert reaped == 1
    assert calls.calls == [(1, "m")]
    settle(p)
    assert not readable(p)


def test_a_result_that_was_there_before_the_first_call(loop_pool):
    p = loop_pool()
    calls = Calls()
    p.apply_async(tasks.same, (1,), callbacks=calls)
    wait_until(lambda: p.statistics().waiting_callbacks == 1, DEADLINE)
    assert readable(p)
    p.reap(timeout=0)
    assert calls.values == [1]


def test_a_result_without_callbacks(loop_pool):
    p = loop_pool()
    settle(p)
    r = p.apply_async(tasks.same, (1,))
    assert readable(p, DEADLINE)
    p.reap(timeout=0)
    assert r.ready()


def test_callbacks_run_in_the_loops_thread(loop_pool):
    p = loop_pool(64)
    threads = set()
    calls = Calls()
    for i in range(300):
        p.apply_async(
            tasks.same, (i,), callbacks=[lambda v, m: threads.add(threading.get_ident()), calls]
        )
    drive(p, calls, 300)
    assert threads == {threading.get_ident()}


def test_an_acknowledgement(loop_pool, gate):
    p = loop_pool(1)
    settle(p)
    acks: list[int] = []
    p.apply_async(tasks.pass_gate, (gate.path,), on_acknowledge=lambda: acks.append(1))
    assert readable(p, DEADLINE)
    p.reap(timeout=0)
    assert acks == [1]
    gate.open()


def test_a_lost_worker(loop_pool):
    p = loop_pool(1)
    settle(p)
    errors = Calls()
    p.apply_async(tasks.die, errbacks=errors)
    drive(p, errors, 1)
    assert isinstance(errors.values[0], WorkerLostError)
    calls = Calls()
    p.apply_async(tasks.same, (2,), callbacks=calls)  # its successor's is heard as well
    drive(p, calls, 1)


@pytest.mark.parametrize("callbacks", [True, False])
def test_ends_by_the_parents_word(loop_pool, gate, callbacks):
    """Cancelled, terminated, expired, out of time: from another thread and our own."""
    p = loop_pool(2, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,), errbacks=Calls())
    gate.await_tasks()
    errors = Calls()
    errbacks = errors if callbacks else None

    def heard(kind: type[BaseException], result: Any) -> None:
        __tracebackhide__ = True
        while not result.ready():
            assert readable(p, DEADLINE), f"nothing to be heard of {kind}"
            p.reap(timeout=0)
        with pytest.raises(kind):
            result.get(0)
        if callbacks:
            assert type(errors.values[-1]) is kind
        settle(p)

    settle(p)
    r = p.apply_async(tasks.nothing, errbacks=errbacks)
    assert r.cancel()
    heard(TaskCancelled, r)
    r = p.apply_async(tasks.nothing, errbacks=errbacks)
    assert Background(r.terminate).result()
    heard(TaskTerminated, r)
    r = p.apply_async(tasks.nothing, errbacks=errbacks, expires=0.02)
    heard(TaskExpired, r)
    gate.open()
    p.wait_for_result()
    settle(p)
    r = p.apply_async(time.sleep, (60,), errbacks=errbacks, timeout=0.02)
    heard(TimeLimitExceeded, r)


def test_foreign_results(loop_pool):
    p = loop_pool(4)
    settle(p)
    calls = Calls()
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    p.add(future, calls)
    assert not readable(p)
    Background(future.set_result, 1).result()
    drive(p, calls, 1)

    class Polled:
        done = False

        def ready(self) -> bool:
            return self.done

        def get(self) -> int:
            return 2

    polled = Polled()
    p.add(polled, calls)
    settle(p)
    polled.done = True
    drive(p, calls, 2)
    assert calls.values == [1, 2]


def test_the_end_of_the_pool(loop_pool, gate):
    p = loop_pool(1)
    settle(p)
    errors = Calls()
    r = p.apply_async(tasks.pass_gate, (gate.path,), errbacks=errors)
    gate.await_tasks()
    p._core.state = PoolState.TERMINATED
    p._supervisor.kill()  # what terminate() does first; it runs the callbacks itself
    drive(p, errors, 1)
    assert r.ready()


# ---- other threads


def test_a_thread_that_waits_takes_nothing_from_the_loop(loop_pool, gate):
    p = loop_pool(8)
    settle(p)
    slow = p.apply_async(tasks.pass_gate, (gate.path, "slow"), callbacks=Calls())
    gate.await_tasks()
    getter = Background(slow.get, DEADLINE)
    calls = Calls()
    for i in range(200):
        p.apply_async(tasks.same, (i,), callbacks=calls)
        drive(p, calls, i + 1)
    assert not getter.done
    gate.open()
    assert getter.result() == "slow"  # ran its own callbacks
    p.apply_async(tasks.same, (0,), callbacks=calls)  # the loop has the lead again
    drive(p, calls, 201)


def test_what_a_thread_has_collected_is_heard_of(loop_pool):
    p = loop_pool(8)
    settle(p)
    calls = Calls()
    for i in range(8):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    Background(p.apply_async(tasks.same, (8,)).get, DEADLINE).result()
    drive(p, calls, 8)


def test_the_loops_own_thread_may_wait(loop_pool):
    p = loop_pool(2)
    calls = Calls()
    fd = p.fileno()
    for i in range(200):
        assert p.apply_async(tasks.same, (i,)).get(DEADLINE) == i
        p.apply_async(tasks.same, (i,), callbacks=calls)  # waits for a slot at times
    drive(p, calls, 200)
    assert p.fileno() == fd


def test_a_callback_that_raises_system_exit(loop_pool, gate):
    """It leaves reap(); the loop hears of the rest."""
    p = loop_pool(8)
    calls = Calls()

    def leave(value: int, meta: object) -> None:
        if value == 0:
            raise SystemExit(3)

    for i in range(5):
        p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=[leave, calls])
    gate.open()
    collected(p, 5)  # nothing more will come over a ring
    p._core.stop_reaper()  # and nobody else tells the loop
    p._supervisor._reaper.join(DEADLINE)
    with pytest.raises(SystemExit):
        drive(p, calls, 5)
    drive(p, calls, 5)


def test_reap_in_a_callback(loop_pool):
    p = loop_pool(8)
    calls = Calls()
    for i in range(50):
        p.apply_async(tasks.same, (i,), callbacks=[lambda v, m: p.reap(timeout=0), calls])
        if p.full():
            drive(p, calls, 1 + len(calls))
    drive(p, calls, 50)


# ---- a busy loop


def test_the_pool_goes_on_while_the_loop_is_busy(loop_pool, tmp_path):
    """What no ring had room for is sent, and a dead worker replaced, without the loop."""
    p = loop_pool(None, processes=1)
    settle(p)
    errors, calls = Calls(), Calls()
    p.apply_async(tasks.die, errbacks=errors)
    padding = bytes(2000)
    for _ in range(200):  # many times what the ring holds
        p.apply_async(tasks.digest, (padding,), callbacks=calls)
    path = tmp_path / "last"
    p.apply_async(tasks.append, (str(path), "x"), callbacks=calls)
    wait_until(path.exists, DEADLINE)
    drive(p, calls, 201)
    drive(p, errors, 1)


def test_tasks_leave_a_worker_that_is_busy_or_stopped(loop_pool, tmp_path):
    p = loop_pool(None, processes=2)
    settle(p)
    gates = [Gate(tmp_path, name) for name in ("one", "two")]
    calls, late = Calls(), Calls()
    for gate in gates:
        p.apply_async(tasks.pass_gate, (gate.path,), callbacks=late)
        gate.await_tasks()
    for i in range(10):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    gates[0].open()
    drive(p, calls, 10)  # half of them stood behind the other gate
    gates[1].open()
    drive(p, late, 2)


# ---- life


def test_before_run(start_method):
    p = TaskPool(2, callbacks_in="caller", context=start_method)
    fd = p.fileno()
    calls = Calls()
    with p:
        assert p.fileno() == fd
        p.apply_async(tasks.same, (1,), callbacks=calls)
        drive(p, calls, 1)


def test_run_again():
    p = TaskPool(2, callbacks_in="caller", context="fork")
    calls = Calls()
    for count in (1, 2, 3):
        with p:
            p.apply_async(tasks.same, (count,), callbacks=calls)
            drive(p, calls, count)


def test_leaving_the_block_runs_what_is_left():
    calls = Calls()
    with TaskPool(64, callbacks_in="caller", processes=2, context="fork") as p:
        p.fileno()
        for i in range(200):
            p.apply_async(tasks.same, (i,), callbacks=calls)
    assert sorted(calls.values) == list(range(200))


def test_a_forked_child_has_no_part_in_it(loop_pool):
    p = loop_pool()
    fd = p.fileno()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            p.fileno()
        except WrongProcess:
            try:
                os.fstat(fd)
            except OSError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    calls = Calls()
    p.apply_async(tasks.same, (1,), callbacks=calls)
    drive(p, calls, 1)


def test_a_pool_and_its_loop_at_rest(loop_pool):
    p = loop_pool(8)
    calls = Calls()
    for i in range(2000):
        p.apply_async(tasks.same, (i,), callbacks=calls)
        if p.full():
            drive(p, calls, 1 + len(calls))
    drive(p, calls, 2000)
    settle(p)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    settle(p)  # a worker may have rung when its result had been taken already
    waiter = Background(readable, p, 2.0)
    assert used() < SLACK
    assert waiter.result() is False


# ---- no lost wake-up


@pytest.mark.parametrize("spin", ["auto", 0], ids=["spins", "parks"])
@pytest.mark.parametrize("beside", ["alone", "beside a thread"])
def test_every_wake_up_comes_from_the_bell(loop_pool, spin, beside):
    """The background thread is gone: nobody comes to the rescue."""
    p = loop_pool(512, processes=2, spin=spin)
    fd = p.fileno()
    p._core.stop_reaper()
    p._supervisor._reaper.join(DEADLINE)
    numbers = random.Random(7)
    calls = Calls()
    stop = threading.Event()

    def disturb() -> None:
        """Takes the lead, and what is collected, at any moment."""
        mine = random.Random(8)
        while not stop.is_set():
            what = mine.randrange(3)
            if what == 0:
                assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
            elif what == 1:
                p._core.collect()
            else:
                p._core.wake()
            stop.wait(mine.random() / 1000)

    def loop() -> None:
        submitted = 0
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            for _ in range(4000):
                burst = numbers.choice((1, 1, 1, 2, 3, 10, 50))
                for _ in range(burst):
                    data = bytes(numbers.choice((0, 0, 10, 700)))
                    p.apply_async(tasks.same, (data,), callbacks=calls)
                submitted += burst
                wanted = submitted if numbers.random() < 0.7 else submitted - burst // 2
                while len(calls) < wanted:
                    assert selector.select(DEADLINE), (len(calls), wanted, p)
                    p.reap(timeout=0)
            while len(calls) < submitted:
                assert selector.select(DEADLINE), (len(calls), submitted, p)
                p.reap(timeout=0)

    disturber = Background(disturb) if beside != "alone" else None
    try:
        Background(loop).result(50)
    finally:
        stop.set()
    if disturber is not None:
        disturber.result()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [8])
def test_a_loop_beside_threads_and_kills(loop_pool, seconds):
    """Whatever is pending, select() returns; every task has one outcome."""
    p = loop_pool(32, processes=2, max_restarts=100_000)
    fd = p.fileno()
    numbers = random.Random(os.getpid())
    ends = Calls()
    submitted = 0
    until = time.monotonic() + seconds

    def kill() -> None:
        mine = random.Random(1)
        while time.monotonic() < until:
            for pid in p.get_worker_pids()[: mine.randrange(3)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(mine.random() / 20)

    def heard() -> bool:
        """False: there is nothing left to hear of, the other one has reaped it."""
        end = time.monotonic() + DEADLINE
        while not select.select([fd], [], [], 0.1)[0]:
            if p._core.pending == 0:
                return False
            assert time.monotonic() < end, f"nothing to be heard of {p!r}"
        return True

    def other_loop() -> int:
        """Submits, waits and reaps by itself, in the way of the first."""
        mine, count = random.Random(2), 0
        while time.monotonic() < until:
            for _ in range(mine.randrange(6)):
                data = bytes(mine.randrange(3000))
                p.apply_async(tasks.digest, (data,), callbacks=ends, errbacks=ends)
                count += 1
            if mine.random() < 0.5 and select.select([fd], [], [], 0.01)[0]:
                p.reap(timeout=0)
            elif mine.random() < 0.1:
                p.wait_for_result()
        return count

    killer, other = Background(kill), Background(other_loop)
    while time.monotonic() < until:
        for _ in range(numbers.choice((1, 1, 2, 30))):
            data = bytes(numbers.choice((0, 1, 50, 3000, 100_000)))
            p.apply_async(tasks.digest, (data,), callbacks=ends, errbacks=ends)
            submitted += 1
        wanted = numbers.randrange(4)
        for _ in range(wanted):
            if not heard():
                break
            p.reap(timeout=0)
    submitted += other.result(2 * DEADLINE)
    killer.result()
    while heard():
        p.reap(timeout=0)
    assert len(ends) == submitted
