"""Who waits for a TaskFuture, and how: it helps to collect, beside foreign futures as well."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import itertools
import os
import pickle
import signal
import threading
import time
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    as_completed,
    wait,
)

import pytest

import tasks
from celery_pool import ResultDecodingError, TaskFuture, WorkerLostError, WrongProcess
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate


@pytest.fixture
def busy(executor):
    """Makes an executor whose background thread is in a callback, and stays there."""
    leave, inside = threading.Event(), threading.Event()

    def callback(future):
        inside.set()
        assert leave.wait(DEADLINE)

    def make():
        one = executor()
        one.submit(time.sleep, 0.05).add_done_callback(callback)
        assert inside.wait(DEADLINE)
        return one

    yield make
    leave.set()


# ---- who waits collects: here nobody else can ----


def test_result_and_exception(busy):
    one = busy()
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1
    assert isinstance(one.submit(tasks.fail, KeyError).exception(DEADLINE), KeyError)
    assert isinstance(one.submit(tasks.die).exception(DEADLINE), WorkerLostError)


@pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait(busy, return_when):
    one = busy()
    futures = [one.submit(tasks.same, i) for i in range(1000)]
    done, left = wait(futures, DEADLINE, return_when)
    assert done and (not left or return_when == FIRST_COMPLETED)
    assert {f.result() for f in done} <= set(range(1000))


def test_wait_for_one_at_a_time(busy):
    """A window of futures, of which some are waited for again and again."""
    one = busy()
    left, values = set(), []
    numbers = iter(range(500))
    while True:
        left |= {one.submit(tasks.same, i) for i in itertools.islice(numbers, 16 - len(left))}
        if not left:
            break
        done, left = wait(left, DEADLINE, FIRST_COMPLETED)
        assert done
        values += [f.result() for f in done]
    assert sorted(values) == list(range(500))


def test_as_completed(busy):
    one = busy()
    futures = [one.submit(tasks.same, i) for i in range(1000)]
    assert sorted(f.result() for f in as_completed(futures, DEADLINE)) == list(range(1000))


def test_foreign_futures_in_between(busy):
    one = busy()
    mine = [one.submit(tasks.same, i) for i in range(100)]
    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(tasks.same, i) for i in range(100, 200)]
        done, left = wait(mine + others, DEADLINE)
        assert not left and {f.result() for f in done} == set(range(200))
        mine = [one.submit(tasks.same, i) for i in range(100)]
        others = [threads.submit(tasks.same, i) for i in range(100, 200)]
        done = as_completed(others + mine, DEADLINE)
        assert {f.result() for f in done} == set(range(200))


def test_map(busy):
    one = busy()
    assert list(one.map(tasks.square, range(300), timeout=DEADLINE)) == [i * i for i in range(300)]


# ---- beside others ----


@pytest.mark.parametrize("ours_first", [False, True])
def test_a_foreign_future_wakes_one_who_helps(executor, tmp_path, ours_first):
    gate = Gate(tmp_path)
    ours, foreign = executor(1).submit(tasks.pass_gate, gate.path), Future()
    both = [ours, foreign] if ours_first else [foreign, ours]
    waiting = [
        Background(wait, both, DEADLINE, FIRST_COMPLETED),
        Background(lambda: next(as_completed(both, DEADLINE))),
    ]
    wait_until(lambda: len(ours._waiters) == len(foreign._waiters) == 2, DEADLINE, "the waiters")
    foreign.set_result(1)
    assert waiting[0].result() == ({foreign}, {ours})
    assert waiting[1].result() is foreign
    gate.open()
    assert wait(both, DEADLINE) == (set(both), set())


@pytest.mark.parametrize("last", [0, 1])
def test_two_executors(executor, tmp_path, last):
    """Who waits helps one of them; the other one's own thread tells of its results."""
    gates = [Gate(tmp_path, name) for name in "ab"]
    futures = [executor(1).submit(tasks.pass_gate, gate.path, gate.path) for gate in gates]
    waiting = [
        Background(wait, futures, DEADLINE),
        Background(wait, futures, DEADLINE, FIRST_COMPLETED),
        Background(lambda: list(as_completed(futures, DEADLINE))),
    ]
    for future in futures:
        wait_until(lambda: len(future._waiters) == 3, DEADLINE, "the waiters")
    gates[1 - last].open()
    assert waiting[1].result() == ({futures[1 - last]}, {futures[last]})
    gates[last].open()
    assert waiting[0].result() == (set(futures), set())
    assert waiting[2].result() == [futures[1 - last], futures[last]]


def test_the_order_is_that_of_completion(executor, tmp_path):
    gates = [Gate(tmp_path, str(i)) for i in range(4)]
    one = executor(4)
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i, gate in enumerate(gates)]
    completed = as_completed(futures, DEADLINE)
    for i in (2, 0, 3, 1):
        gates[i].open()
        assert next(completed).result() == i
    assert next(completed, None) is None


def test_many_threads_wait_for_one_future(executor, tmp_path):
    gate = Gate(tmp_path)
    future = executor().submit(tasks.pass_gate, gate.path, [1])
    threads = [Background(future.result, DEADLINE) for _ in range(8)]
    others = [Background(wait, [future], DEADLINE) for _ in range(8)]
    later = [Background(lambda: list(as_completed([future], DEADLINE))) for _ in range(8)]
    wait_until(lambda: len(future._waiters) == 16, DEADLINE, "the waiters")
    gate.open()
    value = future.result(DEADLINE)
    assert value == [1] and all(t.result() is value for t in threads)
    assert all(t.result() == ({future}, set()) for t in others)
    assert all(t.result() == [future] for t in later)


def test_many_threads_wait_for_many_futures(executor):
    """Each in its way, for futures of its own and of all; callbacks once each."""
    one = executor()
    called = Calls()
    shared = [one.submit(tasks.same, i) for i in range(200)]

    def body(number):
        for turn in range(15):
            futures = [one.submit(tasks.same, i) for i in range(20)]
            for future in futures[::3]:
                future.add_done_callback(called)
            cancelled = [f for f in futures[1::5] if f.cancel()]
            if (number + turn) % 3 == 0:
                done, left = wait(futures + shared, DEADLINE)
                assert not left and len(done) == 220
            elif (number + turn) % 3 == 1:
                assert len(list(as_completed(futures + shared, DEADLINE))) == 220
            for i, future in enumerate(futures):
                if future in cancelled:
                    with pytest.raises(CancelledError):
                        future.result(DEADLINE)
                else:
                    assert future.result(DEADLINE) == i
        return True

    assert all(t.result(6 * DEADLINE) for t in [Background(body, i) for i in range(4)])
    called.wait(4 * 15 * 7)
    one.shutdown()
    assert len(called) == 4 * 15 * 7 == len({future for (future,) in called.calls})


# ---- time ----


def test_timeouts(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    future = one.submit(tasks.pass_gate, gate.path, 1)
    for seconds in (0, -1, 0.02):
        with pytest.raises(TimeoutError):
            future.result(seconds)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(seconds)
        assert wait([future], seconds) == (set(), {future})
        with pytest.raises(TimeoutError, match="1 .of 1. futures unfinished"):
            list(as_completed([future], seconds))
    assert not future._waiters and not future.done()
    gate.open()
    assert wait([future], DEADLINE).done == {future} and future.result(0) == 1


def test_a_signal_handler_interrupts_a_wait(executor, tmp_path):
    class Alarm(Exception):
        pass

    def handler(signum, frame):
        raise Alarm

    gate = Gate(tmp_path)
    future = executor(1).submit(tasks.pass_gate, gate.path, 1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for waiting in (
            future.result,
            lambda: wait([future]),
            lambda: next(as_completed([future])),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Alarm):
                waiting()
    finally:
        signal.signal(signal.SIGALRM, before)
    gate.open()
    assert future.result(DEADLINE) == 1


def test_after_shutdown_without_waiting(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor()
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(50)]
    called = Calls()
    futures[-1].add_done_callback(called)
    waiting = Background(wait, futures, DEADLINE)
    one.shutdown(wait=False)
    gate.open()
    assert waiting.result() == (set(futures), set())
    assert sorted(f.result() for f in as_completed(futures, DEADLINE)) == list(range(50))
    called.wait()


def test_workers_killed_under_those_who_wait(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor()
    futures = [one.submit(tasks.pass_gate, gate.path) for _ in range(10)]
    lost = one.submit(tasks.nothing)
    gate.await_tasks(2)
    waiting = Background(wait, [*futures, lost], DEADLINE)
    wait_until(lambda: len(lost._waiters) == 1, DEADLINE, "the waiter")
    one.kill_workers()
    assert waiting.result() == ({*futures, lost}, set())
    assert lost.cancelled() or lost.exception() is not None


def test_a_fork_in_the_middle(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    done, future = one.submit(tasks.same, 1), one.submit(tasks.pass_gate, gate.path, 2)
    assert done.result(DEADLINE) == 1
    future.add_done_callback(tasks.nothing)
    waiting = Background(wait, [future], DEADLINE)
    wait_until(lambda: len(future._waiters) == 1, DEADLINE, "the waiter")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert done.result() == 1 and wait([done]) == ({done}, set())
            assert not future.done() and not future.running()
            for touch in (
                future.result,
                future.cancel,
                lambda: wait([future]),
                lambda: next(as_completed([future])),
            ):
                with pytest.raises(WrongProcess):
                    touch()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    gate.open()
    assert waiting.result() == ({future}, set()) and future.result() == 2


# ---- the protocol of concurrent.futures ----


def test_the_state_stands_still_while_somebody_holds_it(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    future = one.submit(tasks.pass_gate, gate.path, 1)
    called = Calls()
    future.add_done_callback(called)
    waiting = Background(wait, [future], DEADLINE)
    wait_until(lambda: len(future._waiters) == 1, DEADLINE, "the waiter")
    condition = future._condition
    with condition:
        with future._condition:  # so may others meanwhile, and again
            gate.open()
            assert future.result(DEADLINE) == 1  # the outcome is here ...
            assert future.done()
        assert future._state == "PENDING"  # ... and is not told yet
        assert not waiting.done and not len(called)
    assert waiting.result() == ({future}, set())
    assert future._state == "FINISHED"
    called.wait()
    with condition, future._condition:
        assert future._state == "FINISHED"


def test_a_future_cancelled_while_somebody_holds_it(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    one.submit(tasks.pass_gate, gate.path)
    future = one.submit(tasks.nothing)
    called = Calls()
    future.add_done_callback(called)
    with future._condition:
        assert future.cancel() and future.cancelled()
        assert future._state == "PENDING" and not len(called)
    called.wait()
    assert called.calls == [(future,)] and future._state == "CANCELLED_AND_NOTIFIED"
    assert wait([future], 0) == ({future}, set())
    gate.open()


def test_waiting_at_the_condition(executor, tmp_path):
    """As code does that knows Future from inside."""
    gate = Gate(tmp_path)
    future = executor(1).submit(tasks.pass_gate, gate.path, 1)
    with future._condition:
        assert not future._condition.wait(0.02)
    waiting = [Background(Future.result, future, DEADLINE) for _ in range(2)]
    gate.open()
    assert [w.result() for w in waiting] == [1, 1]
    with future._condition:
        assert future._condition.wait(0)


def test_outcomes_set_by_hand(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    blocker = one.submit(tasks.pass_gate, gate.path)
    values = [one.submit(tasks.same, i) for i in range(4)]
    called = Calls()
    values[0].add_done_callback(called)
    waiting = Background(wait, values[:2], DEADLINE)
    sleeping = Background(values[0].result, DEADLINE)
    wait_until(lambda: len(values[1]._waiters) == 1, DEADLINE, "the waiter")
    values[0].set_result("by hand")
    values[1].set_exception(ValueError("by hand"))
    assert waiting.result() == (set(values[:2]), set())
    assert sleeping.result() == "by hand" and called.calls == [(values[0],)]
    assert values[0].result() == "by hand" and isinstance(values[1].exception(), ValueError)
    with pytest.raises(InvalidStateError):
        values[0].set_result(1)
    assert values[2].set_running_or_notify_cancel() and values[2].running()
    assert not values[2].cancel()
    assert values[3].cancel()
    with pytest.raises(RuntimeError, match="unexpected state"):
        values[3].set_running_or_notify_cancel()
    gate.open()
    assert values[2].result(DEADLINE) == 2 and blocker.result(DEADLINE) is None
    one.shutdown()
    assert values[0].result() == "by hand" and len(called) == 1


def test_a_result_that_cannot_be_unpickled_is_an_exception(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor()
    blocker = one.submit(tasks.pass_gate, gate.path)
    future = one.submit(tasks.only_here)
    assert wait([blocker, future], DEADLINE, FIRST_EXCEPTION) == ({future}, {blocker})
    assert isinstance(future.exception(), ResultDecodingError)
    gate.open()


@pytest.mark.parametrize("error", [CancelledError, TimeoutError, InvalidStateError])
def test_errors_that_a_task_raises_are_its_own(executor, error):
    future = executor().submit(tasks.fail, error, "x")
    assert wait([future], DEADLINE).done == {future}
    assert future.done() and not future.cancelled() and future._state == "FINISHED"
    assert type(future.exception()) is error


def test_a_future_lost_before_the_end_by_force_says_so(executor, tmp_path):
    one = executor(1)
    lost = one.submit(tasks.die)
    wait_until(lost.done, DEADLINE, "the end of the task")
    gate = Gate(tmp_path)
    running = one.submit(tasks.pass_gate, gate.path)
    gate.await_tasks()
    one.terminate_workers()
    assert type(running.exception(DEADLINE)) is concurrent.futures.process.BrokenProcessPool
    assert type(lost.exception()) is WorkerLostError


def test_futures_are_made_by_submit_and_stay_here(executor):
    future = executor(1).submit(tasks.nothing)
    with pytest.raises(TypeError, match="made by submit"):
        TaskFuture()
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(future)
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.copy(future)
    assert TaskFuture[int].__origin__ is TaskFuture
    with contextlib.suppress(TimeoutError):
        future.result(0)
    assert future.result(DEADLINE) is None
