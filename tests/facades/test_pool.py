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
import time
import weakref

import pytest

import tasks
from celery_pool import (
    Pool,
    PoolError,
    PoolNotRunning,
    PoolTerminated,
    WorkerLostError,
    WrongProcess,
)
from guards import wait_until
from processes import in_forked_child, sleeps
from support import DEADLINE, Background, Calls, Log, at_rest, is_gone


@pytest.fixture
def mp_pool(request):
    """Makes pools, `mp_pool(processes, **options)`, and terminates them after the test."""
    names = request.fixturenames
    method = request.getfixturevalue("start_method") if "start_method" in names else "fork"
    made = []

    def make(processes=2, **options):
        options.setdefault("context", method)
        made.append(Pool(processes, **options))
        return made[-1]

    yield make
    while made:
        pool = made.pop()
        pool.terminate()
        pool.join()


def pids_of(pool):
    return pool._tasks.get_worker_pids()


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


# ---- maps ----


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7, 1000])
@pytest.mark.parametrize(
    "make", [list, tuple, iter, set, lambda r: r, lambda r: dict.fromkeys(r)], ids=range(6)
)
def test_map_keeps_the_order(map_pool, make, chunksize):
    assert map_pool.map(tasks.square, make(range(50)), chunksize) == [i * i for i in range(50)]


@pytest.fixture(scope="module")
def map_pool():
    with Pool(2, context="fork") as pool:
        yield pool
    pool.join()


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_starmap(map_pool, chunksize):
    pairs = [(i, 2) for i in range(10)]
    assert map_pool.starmap(pow, pairs, chunksize) == [i**2 for i in range(10)]
    assert map_pool.starmap_async(pow, iter(pairs), chunksize).get(DEADLINE)[3] == 9


def test_no_items(map_pool):
    done = Calls()
    assert map_pool.map(tasks.square, []) == []
    assert map_pool.map_async(tasks.square, [], callback=done).get(DEADLINE) == []
    assert done.calls == [([],)]
    assert list(map_pool.imap(tasks.square, [])) == []


@pytest.mark.parametrize("chunksize", [0, -1])
@pytest.mark.parametrize("name", ["map", "starmap", "map_async", "imap", "imap_unordered"])
def test_chunksize_must_be_positive(map_pool, name, chunksize):
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        getattr(map_pool, name)(tasks.square, [1], chunksize)


def test_map_result(mp_pool, gate):
    pool = mp_pool()
    result = pool.map_async(tasks.pass_gate, [gate.path] * 4, chunksize=2)
    assert isinstance(result, multiprocessing.pool.AsyncResult)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    begin = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0.02)
    assert 0.02 <= time.monotonic() - begin < DEADLINE
    gate.open()
    assert result.get(DEADLINE) == [None] * 4
    assert result.get() is result.get()
    assert result.ready() and result.successful()


def test_a_map_result_is_ready_when_its_callback_has_returned(mp_pool):
    go = threading.Event()
    entered = threading.Event()

    def slow(values):
        entered.set()
        assert go.wait(DEADLINE)

    result = mp_pool().map_async(tasks.square, range(4), callback=slow)
    assert entered.wait(DEADLINE)
    result.wait(0.01)
    assert not result.ready()
    go.set()
    assert result.get(DEADLINE) == [0, 1, 4, 9]


def test_callbacks_of_a_map_run_once_for_all(map_pool):
    done, failed = Calls(), Calls()
    options = {"callback": done, "error_callback": failed}
    assert map_pool.map_async(tasks.square, range(100), 7, **options).get(DEADLINE)[9] == 81
    assert done.calls == [([i * i for i in range(100)],)] and not failed.calls
    bad = map_pool.starmap_async(tasks.fail, [(KeyError, 1), (ValueError, 2)], 1, **options)
    bad.wait(DEADLINE)
    assert len(done) == 1
    ((error,),) = failed.calls
    assert type(error) is KeyError  # the first in the order of the input


def test_a_map_that_fails_waits_for_the_other_chunks(mp_pool, gate):
    pool = mp_pool()
    result = pool.starmap_async(
        tasks.same_or_fail, [(None, "boom"), (gate.path, None)], chunksize=1
    )
    gate.await_tasks()
    assert not result.ready()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.05)
    gate.open()
    with pytest.raises(ValueError, match="boom"):
        result.get(DEADLINE)


class Sized:
    """Says that it has more items than it yields."""

    def __init__(self, error=None):
        self.error = error

    def __len__(self):
        return 10

    def __iter__(self):
        yield from range(3)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("chunksize", [None, 1, 2])
def test_an_input_that_raises_midway(map_pool, chunksize):
    def generator():
        yield from Sized(LookupError("midway"))

    # one without a length is read at once, by the caller
    with pytest.raises(LookupError, match="midway"):
        map_pool.map_async(tasks.square, generator(), chunksize)
    failed = Calls()
    result = map_pool.map_async(
        tasks.square, Sized(LookupError("midway")), chunksize, error_callback=failed
    )
    with pytest.raises(LookupError, match="midway") as caught:
        result.get(DEADLINE)
    assert caught.value.__cause__ is None
    assert failed.calls == [(caught.value,)]


def test_an_input_that_is_shorter_than_it_says(map_pool):
    assert map_pool.map(tasks.square, Sized(), 1) == [0, 1, 4]


def test_a_stop_iteration_of_the_function_is_an_error(map_pool):
    with pytest.raises(StopIteration):
        map_pool.map(tasks.stop_iteration, [1, 2], 2)


def test_a_range_in_chunks_costs_no_more_than_its_ends(map_pool):
    assert map_pool.map(tasks.same, range(3, 1000, 7), 10) == list(range(3, 1000, 7))


def test_a_million_items(map_pool):
    values = map_pool.map(tasks.square, range(1_000_000), chunksize=5000)
    assert len(values) == 1_000_000
    assert values[::99999] == [i * i for i in range(0, 1_000_000, 99999)]


def test_many_threads_map_at_once(map_pool):
    def body(start):
        return [map_pool.map(tasks.square, range(start, start + 200), 3) for _ in range(5)]

    callers = [Background(body, 1000 * i) for i in range(8)]
    for i, caller in enumerate(callers):
        expected = [n * n for n in range(1000 * i, 1000 * i + 200)]
        assert caller.result() == [expected] * 5


def test_one_map_result_in_many_threads(mp_pool, gate):
    result = mp_pool().map_async(tasks.pass_gate, [gate.path] * 100, 1)
    callers = [Background(result.get, DEADLINE) for _ in range(8)]
    gate.open()
    assert all(caller.result() == [None] * 100 for caller in callers)


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


def test_a_daemonic_process_may_not_have_a_pool():
    """As with multiprocessing: nobody would end its workers."""
    with multiprocessing.get_context("fork").Pool(1) as theirs:
        with pytest.raises(AssertionError, match="daemonic processes"):
            theirs.apply(tasks.mp_pool_in_a_task, ("fork",))
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


class RaisesAfter(list):
    """Raises KeyboardInterrupt once, in the midst of what takes `place` values."""

    def __init__(self, place):
        super().__init__()
        self._place = place

    def _changed(self):
        if len(self) >= self._place:
            self._place = float("inf")
            raise KeyboardInterrupt

    def __setitem__(self, key, values):
        super().__setitem__(key, values)
        self._changed()

    def append(self, value):
        super().append(value)
        self._changed()

    def extend(self, values):
        super().extend(values)
        self._changed()


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("place", [1, 50, 100])
def test_a_keyboard_interrupt_while_results_of_a_map_are_taken(mp_pool, chunksize, place):
    result = mp_pool().map_async(tasks.same, range(100), chunksize)
    result._values = RaisesAfter(place)
    with pytest.raises(KeyboardInterrupt):
        result.get(DEADLINE)
    assert result.get(DEADLINE) == list(range(100))
