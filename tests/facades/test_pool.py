"""Pool: multiprocessing.Pool's interface. The standard library's own tests of it run in
tests/stdlib; imap has a file of its own."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import multiprocessing.pool
import os
import pickle
import signal
import threading
import weakref

import pytest

import tasks
from celery_pool import AsyncResult, Pool, WorkerLostError
from celery_pool.pool.imap import IMapIterator
from celery_pool.pool.mapresult import MapResult
from guards import wait_until
from pools import pids_of
from support import DEADLINE, Calls, Log, at_rest, is_gone

# ---- the constructor ----


def test_processes(mp_pool):
    pool = mp_pool(3)
    assert len(set(pids_of(pool))) == 3
    assert len(mp_pool(None)._tasks.get_worker_pids()) >= 1


@pytest.mark.parametrize("processes", [0, -1])
def test_processes_must_be_positive(processes):
    with pytest.raises(ValueError, match="at least 1"):
        Pool(processes)


@pytest.mark.parametrize("value", [0, -1, 0.5, "12"])
def test_maxtasksperchild_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match="maxtasksperchild"):
        Pool(1, maxtasksperchild=value)


def test_initializer(mp_pool, start_method):
    pool = mp_pool(2, initializer=tasks.initialize, initargs=("a", 1))
    assert pool.apply(tasks.what_was_initialized) == [("a", 1)]


def test_initializer_must_be_callable():
    with pytest.raises(TypeError, match="initializer"):
        Pool(1, initializer="print")


def test_what_the_initializer_raises_is_raised_and_nothing_is_left(tmp_path):
    path = tmp_path / "pids"
    with pytest.raises(ValueError, match="no good"):
        Pool(1, initializer=tasks.initialize_with, initargs=(str(path), "no good"), context="fork")


def test_a_chunk_counts_as_one_task_of_a_worker(mp_pool):
    pool = mp_pool(1, maxtasksperchild=1)
    found = pool.map(tasks.pid, range(6), chunksize=2)
    assert found[0] == found[1] and found[2] == found[3] and found[4] == found[5]
    assert len(set(found)) == 3


def test_context_as_an_object():
    with Pool(1, None, (), None, multiprocessing.get_context("spawn")) as pool:
        assert pool.apply(tasks.square, (3,)) == 9


# ---- one call ----


def test_apply(mp_pool, start_method):
    pool = mp_pool()
    assert pool.apply(tasks.echo, (1, 2), {"a": 3}) == ((1, 2), {"a": 3})
    assert pool.apply(tasks.echo, [4]) == ((4,), {})
    with pytest.raises(ValueError, match="text") as caught:
        pool.apply(tasks.fail_deeply, ("text",))
    assert type(caught.value.__cause__) is multiprocessing.pool.RemoteTraceback
    assert "the_innermost_function" in str(caught.value.__cause__)


def test_apply_async_returns_an_async_result(mp_pool, gate):
    pool = mp_pool()
    result = pool.apply_async(tasks.pass_gate, (gate.path, 7))
    assert isinstance(result, multiprocessing.pool.AsyncResult)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.01)
    gate.open()
    assert result.get(DEADLINE) == 7
    assert result.ready() and result.successful()


def test_callbacks_get_one_argument_in_the_background_thread(mp_pool):
    pool = mp_pool()
    threads = set()
    done, failed = Calls(), Calls()

    def note(calls, *args):
        threads.add(threading.current_thread())
        calls(*args)

    options = {
        "callback": functools.partial(note, done),
        "error_callback": functools.partial(note, failed),
    }
    good = [pool.apply_async(tasks.square, (i,), **options) for i in range(20)]
    bad = pool.apply_async(tasks.fail, (KeyError, "k"), **options)
    for result in good:
        result.wait(DEADLINE)
    bad.wait(DEADLINE)
    assert sorted(done.calls) == sorted((i * i,) for i in range(20))
    ((error,),) = failed.calls
    assert type(error) is KeyError
    assert len(threads) == 1 and threading.current_thread() not in threads


def test_a_callback_may_call_the_pool(mp_pool):
    pool = mp_pool()
    later = Calls()
    pool.apply_async(
        tasks.square,
        (3,),
        callback=lambda value: pool.apply_async(tasks.square, (value,), callback=later),
    )
    assert later.wait() == [(81,)]
    seen = Calls()
    pool.apply_async(
        tasks.square, (3,), callback=lambda value: seen(pool.map(tasks.square, [value]))
    )
    assert seen.wait() == [([81],)]


def test_a_callback_that_raises_is_logged_and_the_pool_goes_on(mp_pool):
    log = Log()
    pool = mp_pool()
    pool._tasks.logger = log.logger

    def broken(value):
        raise LookupError("in the callback")

    pool.apply_async(tasks.square, (3,), callback=broken).wait(DEADLINE)
    assert pool.map_async(tasks.square, [1, 2], callback=broken).get(DEADLINE) == [1, 4]
    assert log.kinds == [LookupError, LookupError]
    assert "broken" in log.messages[0] and "broken" in log.messages[1]
    assert pool.apply(tasks.square, (4,)) == 16


def test_a_callback_must_be_callable(mp_pool):
    pool = mp_pool()
    with pytest.raises(TypeError, match="callable"):
        pool.apply_async(tasks.square, (1,), callback=3)
    with pytest.raises(TypeError, match="callable"):
        pool.map_async(tasks.square, [1], error_callback="x")


def two_arguments(result, meta):
    raise AssertionError("never called")


@pytest.mark.parametrize("name", ["callback", "error_callback"])
@pytest.mark.parametrize("wrong", [two_arguments, lambda: None, [].clear])
def test_a_callback_must_take_one_argument(mp_pool, name, wrong):
    pool = mp_pool()
    for call in pool.apply_async, pool.map_async, pool.starmap_async:
        with pytest.raises(TypeError, match=rf"cannot be called as {name}\("):
            call(tasks.square, [(1,)], **{name: wrong})
    assert pool.apply(tasks.square, (2,)) == 4


@pytest.mark.parametrize("args", [5, "ab", b"ab", {"a": 1}])
def test_args_that_cannot_be_right_are_told_at_the_call(mp_pool, args):
    pool = mp_pool()
    for call in pool.apply_async, pool.apply:
        with pytest.raises(TypeError, match="args must be a tuple"):
            call(tasks.echo, args)
    with pytest.raises(TypeError, match="kwargs must be a mapping"):
        pool.apply_async(tasks.square, (1,), 5)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_starmap_takes_what_itertools_starmap_takes(mp_pool, chunksize):
    items = [(1, 2), [3], "ab", {"c": 1}, range(2), bytearray(b"a"), ()]
    expected = [(tuple(item), {}) for item in items]
    assert mp_pool().starmap(tasks.echo, items, chunksize) == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda pool, **options: pool.apply_async(
            tasks.same, (tasks.raises_when_pickled(RuntimeError),), **options
        ),
        lambda pool, **options: pool.map_async(
            tasks.same, [1, tasks.raises_when_pickled(RuntimeError), 3], 1, **options
        ),
        lambda pool, **options: pool.apply_async(lambda: None, **options),
        lambda pool, **options: pool.apply_async(3, **options),
    ],
    ids=["argument", "argument of a map", "function", "not callable"],
)
def test_what_cannot_be_sent_fails_where_the_result_is_asked_for(mp_pool, call):
    pool = mp_pool()
    failed = Calls()
    result = call(pool, error_callback=failed)
    with pytest.raises((RuntimeError, TypeError, AttributeError, pickle.PicklingError)) as caught:
        result.get(DEADLINE)
    assert failed.calls == [(caught.value,)]
    assert not result.successful()
    with pytest.raises(type(caught.value)):
        call(pool).get(DEADLINE)


def test_an_exit_while_arguments_are_pickled_is_the_results(mp_pool):
    pool = mp_pool()
    result = pool.apply_async(tasks.same, (tasks.raises_when_pickled(SystemExit),))
    with pytest.raises(SystemExit):
        result.get(DEADLINE)
    with pytest.raises(KeyboardInterrupt):  # may be the user's
        pool.apply_async(tasks.same, (tasks.raises_when_pickled(KeyboardInterrupt),))
    values = [tasks.raises_when_pickled(SystemExit), 1, 2]
    with pytest.raises(SystemExit):
        pool.map(tasks.same, values, 1)
    for imap in pool.imap, pool.imap_unordered:
        results = imap(tasks.same, values)
        with pytest.raises(SystemExit):
            while True:
                next(results)
    with pytest.raises(KeyboardInterrupt):
        pool.map(tasks.same, [tasks.raises_when_pickled(KeyboardInterrupt)])
    assert pool.apply(tasks.same, (1,)) == 1


def test_what_cannot_be_sent_is_counted_and_let_go(mp_pool):
    pool = mp_pool()
    counted = pool._tasks.statistics()
    argument = tasks.raises_when_pickled(RuntimeError)
    gone = weakref.ref(argument)
    for options in ({}, {"callback": print}, {"error_callback": Calls()}):
        pool.apply_async(tasks.same, (argument,), **options).wait(DEADLINE)
    statistics = pool._tasks.statistics()
    assert statistics.submitted - counted.submitted == 3
    assert statistics.failed - counted.failed == 3
    assert at_rest(pool._tasks)
    del argument, options
    gc.collect()
    assert gone() is None


def map_fails(pool):
    with contextlib.suppress(ValueError):
        pool.map(tasks.fail, [ValueError] * 2)


def map_argument_fails(pool):
    with contextlib.suppress(RuntimeError):
        pool.map(tasks.same, [tasks.raises_when_pickled(RuntimeError)])


def apply_argument_fails(pool):
    outcome = pool.apply_async(tasks.same, (tasks.raises_when_pickled(RuntimeError),))
    outcome.wait(DEADLINE)


def imap_fails(pool):
    iterator = pool.imap(tasks.fail, [ValueError] * 5, buffersize=2)
    with contextlib.suppress(ValueError):
        iterator.next(DEADLINE)


def imap_unordered_fails(pool):
    iterator = pool.imap_unordered(tasks.fail, [ValueError] * 5, buffersize=2)
    with contextlib.suppress(ValueError):
        iterator.next(DEADLINE)


def imap_argument_fails(pool):
    iterator = pool.imap(tasks.same, [tasks.raises_when_pickled(RuntimeError)])
    with contextlib.suppress(RuntimeError):
        iterator.next(DEADLINE)


@pytest.mark.parametrize(
    "call",
    [
        map_fails,
        map_argument_fails,
        apply_argument_fails,
        imap_fails,
        imap_unordered_fails,
        imap_argument_fails,
    ],
)
def test_an_error_keeps_nothing_of_the_caller_alive(mp_pool, call):
    """Without help of the cycle collector: what the caller holds is gone when it has returned."""

    class Held:
        pass

    def caller():
        held = Held()
        call(pool)
        return weakref.ref(held)

    pool = mp_pool()
    gc.collect()
    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()


def test_the_other_items_run_if_one_cannot_be_pickled(mp_pool, tmp_path):
    path = tmp_path / "lines"
    items = [(str(path), "a"), (tasks.raises_when_pickled(RuntimeError), ""), (str(path), "b")]
    with pytest.raises(RuntimeError, match="no pickling"):
        mp_pool().starmap(tasks.append, items, 1)
    assert sorted(path.read_text().split()) == ["a", "b"]


def test_a_result_that_cannot_be_pickled(mp_pool):
    pool = mp_pool()
    failed = Calls()
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
        pool.apply_async(tasks.unpicklable, error_callback=failed).get(DEADLINE)
    assert failed.calls == [(caught.value,)]
    assert "lambda" in caught.value.value and caught.value.exc
    with pytest.raises(multiprocessing.pool.MaybeEncodingError):
        pool.map(tasks.raises_when_pickled, [ValueError])
    assert pool.apply(tasks.square, (2,)) == 4


# ---- failing workers ----


def test_a_map_whose_worker_is_killed_fails_instead_of_hanging(mp_pool, start_method):
    pool = mp_pool()
    items = [("square", i) for i in range(5)] + [("die", 0)] + [("square", i) for i in range(5)]
    with pytest.raises(WorkerLostError):
        pool.starmap_async(tasks.square_or_die, items, chunksize=1).get(DEADLINE)
    results = [pool.apply_async(tasks.square_or_die, item) for item in items]
    outcomes = []
    for result in results:
        result.wait(DEADLINE)
        outcomes.append(result.successful())
    assert outcomes == [True] * 5 + [False] + [True] * 5


def test_workers_are_replaced(mp_pool):
    pool = mp_pool(1)
    (before,) = pids_of(pool)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: is_gone(before), DEADLINE)
    assert pool.apply(tasks.pid) != before


# ---- passing for the standard class ----


def test_it_is_one_of_the_standard_class():
    with Pool(1) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
        assert isinstance(pool.apply_async(int), multiprocessing.pool.AsyncResult)
        assert isinstance(pool.map_async(int, ()), multiprocessing.pool.MapResult)
        assert isinstance(pool.imap(int, ()), multiprocessing.pool.IMapIterator)


def test_nothing_of_the_standard_class_runs():
    theirs = {name for name, value in vars(multiprocessing.pool.Pool).items() if callable(value)}
    assert {"apply", "_handle_tasks", "_repopulate_pool"} < theirs
    with Pool(1) as pool:
        for name in theirs:
            member = getattr(pool, name, None)  # gone, or ours
            assert member is None or member.__func__.__module__ == "celery_pool.pool.api"
        with pytest.raises(AttributeError, match="'Pool' object has no attribute '_help_stuff"):
            pool._help_stuff_finish()


def test_results_are_generic_at_run_time():
    assert AsyncResult[int].__origin__ is AsyncResult
    assert AsyncResult[int].__args__ == (int,)
    for kind in (MapResult, IMapIterator):
        assert kind[int].__args__ == (int,)
