"""Pool: map and its kin."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import threading
import time

import pytest

import tasks
from celery_pool import (
    Pool,
)
from support import DEADLINE, Background, Calls

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
    with pytest.raises(ValueError, match="chunksize must be from 1"):
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
