"""Pool: its end, its processes, signals."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.pool
import os
import pickle
import signal
import threading
import time
import weakref

import pytest

import tasks
from celery_pool import (
    Pool,
    PoolError,
    PoolNotRunning,
    PoolTerminated,
    WrongProcess,
)
from guards import wait_until
from pools import pids_of
from processes import in_forked_child, sleeps
from support import DEADLINE, Background, Calls, is_gone

# ---- the end ----

CALLS = {
    "apply": lambda pool: pool.apply(tasks.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map": lambda pool: pool.map(tasks.square, [1]),
    "map of nothing": lambda pool: pool.map(tasks.square, []),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "starmap": lambda pool: pool.starmap(tasks.square, [(1,)]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.square, [(1,)]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_calls_after_the_end(mp_pool, end):
    pool = mp_pool()
    getattr(pool, end)()
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match="Pool not running") as caught:
            call(pool)
        assert isinstance(caught.value, PoolError), name
    pool.join()
    with pytest.raises(PoolNotRunning):
        pool.apply(tasks.square, (1,))


def test_a_call_that_finds_the_pool_terminated_meanwhile(mp_pool):
    pool = mp_pool()
    pool._tasks.terminate()
    for call in (CALLS["apply_async"], CALLS["map_async"]):
        with pytest.raises(ValueError, match="Pool not running") as caught:
            call(pool)
        assert isinstance(caught.value.__cause__, PoolTerminated)


def test_close_lets_everything_end(mp_pool, gate):
    pool = mp_pool()
    results = [pool.apply_async(tasks.pass_gate, (gate.path, i)) for i in range(10)]
    pool.close()
    joining = Background(pool.join)
    assert not joining.done
    gate.open()
    joining.result()
    assert [r.get(0) for r in results] == list(range(10))


def test_close_during_a_map_lets_it_be_submitted(mp_pool, gate):
    pool = mp_pool()
    reading = threading.Event()
    go = threading.Event()

    class Slow:
        def __len__(self):
            return 4

        def __iter__(self):
            yield 0
            reading.set()
            assert go.wait(DEADLINE)
            yield from (1, 2, 3)

    mapping = Background(pool.map, tasks.square, Slow(), 1)
    assert reading.wait(DEADLINE)
    pool.close()
    joining = Background(pool.join)
    with pytest.raises(ValueError, match="Pool not running"):
        pool.map(tasks.square, [1])
    go.set()
    assert mapping.result() == [0, 1, 4, 9]
    joining.result()


def test_join_needs_the_end(mp_pool):
    with pytest.raises(ValueError, match="still running"):
        mp_pool().join()


def test_terminate_with_tasks_in_flight(mp_pool, gate, start_method):
    pool = mp_pool()
    failed = Calls()
    one = pool.apply_async(tasks.pass_gate, (gate.path,), error_callback=failed)
    many = pool.map_async(tasks.pass_gate, [gate.path] * 100, 1, error_callback=failed)
    gate.await_tasks()
    pids = pids_of(pool)
    begin = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begin < DEADLINE
    assert all(is_gone(pid) for pid in pids)
    for result in (one, many):
        with pytest.raises(PoolTerminated):
            result.get(DEADLINE)
    assert [type(error) for (error,) in failed.calls] == [PoolTerminated] * 2


def test_with_terminates(gate):
    with Pool(1, context="fork") as pool:
        result = pool.apply_async(tasks.pass_gate, (gate.path,))
        gate.await_tasks()
    with pytest.raises(PoolTerminated):
        result.get(DEADLINE)
    assert pids_of(pool) == []
    pool.join()


def test_close_and_terminate_may_be_called_again(mp_pool):
    pool = mp_pool()
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.close()
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_warning_after_the_end(end, recwarn):
    pool = Pool(1, context="fork")
    getattr(pool, end)()
    pool.join()
    del pool
    gc.collect()
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


def test_a_pool_that_is_dropped_warns_and_its_processes_end(start_method):
    pool = Pool(2, context=start_method)
    pids = pids_of(pool)
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    gone = weakref.ref(pool)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    assert gone() is None
    wait_until(lambda: all(is_gone(pid) for pid in pids), DEADLINE)


def test_results_of_a_dropped_pool_arrive(gate):
    pool = Pool(1, context="fork")
    result = pool.apply_async(tasks.pass_gate, (gate.path, 5))
    with pytest.warns(ResourceWarning):
        del pool
        gc.collect()
    gate.open()
    assert result.get(DEADLINE) == 5


def test_repr(mp_pool):
    pool = mp_pool(2)
    assert repr(pool) == "<celery_pool.pool.Pool state=RUN pool_size=2>"
    pool.close()
    assert "state=CLOSE" in repr(pool)
    pool.terminate()
    assert "state=TERMINATE" in repr(pool)


def test_a_pool_is_not_pickled(mp_pool):
    with pytest.raises(NotImplementedError):
        pickle.dumps(mp_pool(1))


# ---- processes and signals ----


def test_pools_in_tasks(mp_pool, start_method):
    pool = mp_pool(1)
    assert pool.apply(tasks.uses_multiprocessing, (start_method,)) == [1, 4, 9]
    assert pool.apply(tasks.mp_pool_in_a_task, (start_method,)) == [1, 4, 9]


def test_a_daemonic_process_may_have_a_pool():
    """Other than with multiprocessing: its processes end with it."""
    with multiprocessing.get_context("fork").Pool(1) as theirs:
        assert theirs.apply(tasks.mp_pool_in_a_task, ("fork",)) == [1, 4, 9]
        theirs.close()
        theirs.join()


@pytest.mark.parametrize("name", [name for name in CALLS if name != "with"])
def test_a_forked_child_cannot_use_it(mp_pool, name):
    pool = mp_pool()
    what, text = in_forked_child(lambda: CALLS[name](pool))
    assert what == WrongProcess.__name__, text
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_forked_child_leaves_it_alone(mp_pool):
    pool = mp_pool()
    result = pool.map_async(tasks.square, range(4), callback=Calls())
    result.wait(DEADLINE)

    def child():
        pool.__exit__(None, None, None)
        return result.get(0)

    assert in_forked_child(child) == ("returned", [0, 1, 4, 9])
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_forked_child_may_have_its_own(mp_pool):
    mp_pool()

    def child():
        with Pool(1, context="fork") as own:
            return own.map(tasks.square, [2])

    assert in_forked_child(child) == ("returned", [4])


def test_ctrl_c_during_a_map(mp_pool, gate):
    pool = mp_pool()

    def interrupt():
        gate.await_tasks(2)
        wait_until(lambda: sleeps(os.getpid()), DEADLINE)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        killer = Background(interrupt)
        pool.map(tasks.pass_gate, [gate.path] * 10, 1)
    killer.result()
    gate.open()
    assert pool.map(tasks.square, range(10), 1) == [i * i for i in range(10)]


def test_terminate_in_a_signal_handler(mp_pool, gate):
    pool = mp_pool()

    def interrupt():
        gate.await_tasks()
        wait_until(lambda: sleeps(os.getpid()), DEADLINE)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda signum, frame: pool.terminate())
    try:
        for call in (
            lambda: pool.map(tasks.pass_gate, [gate.path] * 10, 1),
            lambda: next(pool.imap(tasks.pass_gate, [gate.path] * 10)),
            lambda: pool.map_async(
                tasks.pass_gate, [gate.path] * 10, 1, error_callback=Calls()
            ).get(),
            lambda: next(pool.imap_unordered(tasks.pass_gate, [gate.path] * 9, buffersize=2)),
        ):
            killer = Background(interrupt)
            with pytest.raises(PoolTerminated):
                call()
            killer.result()
            pool.join()
            for path in gate.waiting_files():
                path.unlink()
            pool = mp_pool()
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_ctrl_c_at_the_terminal_reaches_no_worker(mp_pool):
    pool = mp_pool()
    for pid in pids_of(pool):
        os.kill(pid, signal.SIGINT)
    assert pool.map(tasks.square, range(10), 1) == [i * i for i in range(10)]


def test_nothing_runs_at_rest(mp_pool):
    """No threads but those of the core, and none a call."""
    pool = mp_pool()
    before = threading.active_count()
    pool.map(tasks.square, range(10))
    assert list(pool.imap(tasks.square, range(10))) == [i * i for i in range(10)]
    wait_until(lambda: threading.active_count() == before, DEADLINE)


interrupted: set[int] = set()  # numbers whose unpickling is interrupted, once


def unpickled(number):
    if number in interrupted:
        interrupted.remove(number)
        raise KeyboardInterrupt
    return number


class Interrupts:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return unpickled, (self.number,)


def as_interrupting(number):
    return Interrupts(number)


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("place", [0, 50, 99])
def test_a_keyboard_interrupt_while_results_of_a_map_are_taken(mp_pool, chunksize, place):
    result = mp_pool().map_async(as_interrupting, range(100), chunksize)
    interrupted.add(place)
    with pytest.raises(KeyboardInterrupt):
        result.get(DEADLINE)
    assert result.get(DEADLINE) == list(range(100))


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_keyboard_interrupt_while_a_result_of_an_imap_is_taken(mp_pool, method, chunksize):
    results = getattr(mp_pool(), method)(as_interrupting, range(100), chunksize)
    interrupted.add(50)
    found = []
    with pytest.raises(KeyboardInterrupt):
        while True:
            found.append(results.next(DEADLINE))
    found += [results.next(DEADLINE) for _ in range(100 - len(found))]
    assert sorted(found) == list(range(100))
