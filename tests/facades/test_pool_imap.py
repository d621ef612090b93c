"""Pool.imap and Pool.imap_unordered: laziness, order, and every way to end early."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
import time
import weakref

import pytest

import tasks
from celery_pool import Pool, PoolTerminated, WorkerLostError, WrongProcess
from guards import wait_until
from processes import in_forked_child, sleeps
from support import DEADLINE, Background, stays

NAMES = ["imap", "imap_unordered"]


@pytest.fixture
def pool():
    with Pool(2, context="fork") as made:
        yield weakref.proxy(made)  # pytest keeps it beyond the leak guard
    made.join()


@pytest.fixture(params=NAMES)
def imap(request, pool):
    def call(*args, **options):
        return getattr(pool, request.param)(*args, **options)

    call.ordered = request.param == "imap"
    return call


class Source:
    """Counts how far it was iterated, and in which thread."""

    def __init__(self, items):
        self.items = iter(items)
        self.taken = 0
        self.threads = set()

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.current_thread())
        item = next(self.items)
        self.taken += 1
        return item


@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
def test_all_results(imap, chunksize, buffersize):
    expected = [i * i for i in range(100)]
    found = list(imap(tasks.square, iter(range(100)), chunksize, buffersize))
    if imap.ordered:
        assert found == expected
    assert sorted(found) == expected


def test_start_methods(start_method):
    with Pool(2, context=start_method) as pool:
        assert list(pool.imap(tasks.square, range(10), 3)) == [i * i for i in range(10)]
        assert sorted(pool.imap_unordered(tasks.square, range(4))) == [0, 1, 4, 9]
    pool.join()


def test_it_is_an_iterator(imap):
    iterator = imap(tasks.square, [3])
    assert isinstance(iterator, multiprocessing.pool.IMapIterator)
    assert iter(iterator) is iterator
    assert iterator.next(timeout=DEADLINE) == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


def test_unordered_results_come_as_they_end(pool, gate):
    iterator = pool.imap_unordered(tasks.pass_gate_if_odd, [(gate.path, 1), (gate.path, 2)])
    assert next(iterator) == 2
    gate.open()
    assert next(iterator) == 1


def test_ordered_results_wait_for_the_first(pool, gate):
    iterator = pool.imap(tasks.pass_gate_if_odd, [(gate.path, 1), (gate.path, 2)])
    gate.await_tasks()
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(timeout=0.02)
    gate.open()
    assert list(iterator) == [1, 2]


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_result_that_was_too_late_comes_later(imap, gate, chunksize):
    iterator = imap(tasks.pass_gate, [gate.path] * 3, chunksize)
    for _ in range(3):
        begin = time.monotonic()
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=0.01)
        assert time.monotonic() - begin < DEADLINE
    gate.open()
    assert list(iterator) == [None] * 3


def test_a_timeout_while_the_input_is_waited_for(imap):
    go = threading.Event()

    def source():
        assert go.wait(DEADLINE)
        yield 3

    iterator = imap(tasks.square, source())
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(0.01)
    go.set()
    assert list(iterator) == [9]


def test_without_a_bound_the_input_is_read_at_once_by_another_thread(imap, gate):
    source = Source([gate.path] * 500)
    iterator = imap(tasks.pass_gate, source)
    wait_until(lambda: source.taken == 500, DEADLINE)
    assert threading.current_thread() not in source.threads and len(source.threads) == 1
    gate.open()
    assert len(list(iterator)) == 500


@pytest.mark.parametrize("chunksize", [1, 3])
def test_buffersize_bounds_how_far_the_input_is_read(imap, chunksize):
    source = Source(itertools.count())
    iterator = imap(tasks.square, source, chunksize, 4)
    bound = 4 * chunksize
    wait_until(lambda: source.taken == bound, DEADLINE)
    assert stays(lambda: source.taken == bound)
    for taken in range(1, 5):
        found = [next(iterator) for _ in range(chunksize)]
        assert len(found) == chunksize
        wait_until(lambda: source.taken == bound + taken * chunksize, DEADLINE)
    assert stays(lambda: source.taken == bound + 4 * chunksize, 0.05)


def test_a_bounded_imap_that_is_not_consumed_holds_nobody_up(pool):
    waiting = pool.imap(tasks.square, itertools.count(), buffersize=1)
    assert list(pool.imap(tasks.square, range(10), buffersize=2)) == [i * i for i in range(10)]
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]
    assert next(waiting) == 0


@pytest.mark.parametrize("buffersize", [0, -1])
def test_buffersize_must_be_positive(imap, buffersize):
    with pytest.raises(ValueError, match="buffersize"):
        imap(tasks.square, [1], buffersize=buffersize)


@pytest.mark.parametrize("size", ["3", 2.5, True])
@pytest.mark.parametrize("name", ["buffersize", "chunksize"])
def test_sizes_must_be_integers(imap, name, size):
    with pytest.raises(TypeError, match=name):
        imap(tasks.square, [1], **{name: size})


# ---- errors ----


def midway(count):
    yield from range(count)
    raise LookupError("midway")


@pytest.mark.parametrize("buffersize", [None, 2])
def test_an_input_that_raises(pool, buffersize):
    iterator = pool.imap(tasks.square, midway(3), buffersize=buffersize)
    assert [next(iterator) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(LookupError, match="midway") as caught:
        next(iterator)
    assert caught.value.__cause__ is None
    with pytest.raises(StopIteration):
        next(iterator)


def test_an_input_that_raises_unordered(pool):
    iterator = pool.imap_unordered(tasks.square, midway(3))
    found, errors = [], []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            break
        except LookupError as error:
            errors.append(str(error))
    assert sorted(found) == [0, 1, 4] and errors == ["midway"]


def test_the_chunk_in_which_the_input_raises_is_not_run(pool):
    iterator = pool.imap(tasks.square, midway(7), chunksize=2)
    assert [next(iterator) for _ in range(6)] == [i * i for i in range(6)]
    with pytest.raises(LookupError):
        next(iterator)


def test_something_that_cannot_be_iterated(imap):
    with pytest.raises(TypeError, match="iterable"):
        next(imap(tasks.square, 3))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_it_goes_on_behind_an_exception(pool, chunksize):
    iterator = pool.imap(tasks.invert, [1, 2, 0, 4, 5, 10], chunksize)
    found = []
    while True:
        try:
            found.append(next(iterator))
        except ZeroDivisionError:
            found.append(None)
        except StopIteration:
            break
    assert found == ([1, 0.5, None, 0.25, 0.2, 0.1] if chunksize == 1 else [1, 0.5, None, 0.2, 0.1])


def test_items_that_cannot_be_pickled(imap):
    iterator = imap(tasks.same, [1, tasks.raises_when_pickled(RuntimeError), 3])
    found = []
    for _ in range(3):
        try:
            found.append(next(iterator))
        except RuntimeError as error:
            found.append(str(error))
    assert sorted(found, key=str) == [1, 3, "no pickling"]
    with pytest.raises(StopIteration):
        next(iterator)


def test_a_killed_worker(imap):
    iterator = imap(tasks.die_if_zero, [1, 0, 2])
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append(iterator.next(DEADLINE))
        except WorkerLostError:
            outcomes.append(None)
    assert sorted(outcomes, key=str) == [1, 2, None]


def test_results_that_are_exceptions_are_results(imap):
    iterator = imap(tasks.same, [ValueError("a value")])
    assert isinstance(next(iterator), ValueError)


# ---- the end ----


@pytest.mark.parametrize("buffersize", [None, 2])
def test_close_lets_the_input_be_read_to_its_end(pool, imap, buffersize):
    iterator = imap(tasks.square, iter(range(50)), buffersize=buffersize)
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.imap(tasks.square, [1])
    assert sorted(iterator) == [i * i for i in range(50)]
    pool.join()


def test_join_waits_for_the_input(pool, imap, tmp_path):
    path = tmp_path / "lines"
    go = threading.Event()

    def source():
        yield str(path)
        assert go.wait(DEADLINE)
        yield str(path)

    imap(tasks.append_line, source())  # nobody takes the results
    pool.close()
    joining = Background(pool.join)
    assert not joining.done
    go.set()
    joining.result()
    assert path.read_text().count("line") == 2


def test_no_thread_to_be_had(pool, imap, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            imap(tasks.square, [1])
    pool.close()
    Background(pool.join).result()  # nothing is waited for


def test_join_in_the_thread_that_takes_the_results_ends_a_bounded_input(pool, imap):
    iterator = imap(tasks.square, itertools.count(), buffersize=3)
    assert next(iterator) in (0, 1, 4)
    pool.close()
    pool.join()
    rest = []
    with pytest.raises(ValueError, match="join"):
        while True:
            rest.append(iterator.next(DEADLINE))
    assert len(rest) == 3


def test_join_loses_nothing_if_all_was_submitted(pool, imap):
    iterator = imap(tasks.square, iter(range(4)), buffersize=4)
    pool.close()
    pool.join()
    assert sorted(iterator) == [0, 1, 4, 9]


def test_join_waits_for_another_thread_that_takes_the_results(pool, imap):
    iterator = imap(tasks.square, iter(range(200)), buffersize=2)
    first = threading.Event()

    def take():
        found = [next(iterator)]
        first.set()
        return found + list(iterator)

    taking = Background(take)
    assert first.wait(DEADLINE)
    pool.close()
    pool.join()
    assert sorted(taking.result()) == [i * i for i in range(200)]


@pytest.mark.parametrize("buffersize", [None, 1])
def test_terminate_ends_it(pool, imap, gate, buffersize):
    source = Source(itertools.repeat(gate.path))
    iterator = imap(tasks.pass_gate, source if buffersize else [gate.path] * 5, 1, buffersize)
    taking = Background(iterator.next)
    gate.await_tasks()
    pool.terminate()
    with pytest.raises(PoolTerminated):
        taking.result()
    pool.join()

    def until_the_end():
        while True:
            try:
                next(iterator)
            except PoolTerminated:
                continue
            except StopIteration:
                return "ended"

    assert Background(until_the_end).result() == "ended"


def test_terminate_while_an_endless_input_is_read(pool, imap):
    source = Source(itertools.repeat(3))
    iterator = imap(tasks.square, source)
    wait_until(lambda: source.taken > 1000, DEADLINE)
    pool.terminate()
    taken = source.taken
    wait_until(lambda: not any(thread.is_alive() for thread in source.threads), DEADLINE)
    assert source.taken <= taken + 2
    del iterator


def test_a_bounded_iterator_that_is_dropped_reads_no_more(pool, imap):
    source = Source(itertools.count())
    iterator = imap(tasks.square, source, buffersize=2)
    next(iterator)
    del iterator
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in source.threads), DEADLINE)
    pool.close()
    pool.join()


def test_the_input_is_closed_by_the_thread_that_read_it(pool, imap):
    closed = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread())

    iterator = imap(tasks.square, source(), buffersize=1)
    next(iterator)
    del iterator
    pool.close()
    pool.join()
    assert len(closed) == 1 and closed[0] is not threading.current_thread()


def test_many_threads_take_from_one_iterator(pool, imap):
    iterator = imap(tasks.square, range(500), 3)
    takers = [Background(list, iterator) for _ in range(6)]
    found = [value for taker in takers for value in taker.result()]
    assert sorted(found) == [i * i for i in range(500)]


def test_a_forked_child_cannot_take_results(pool, imap):
    iterator = imap(tasks.square, range(3))
    what, text = in_forked_child(lambda: next(iterator))
    assert what == WrongProcess.__name__, text
    assert sorted(iterator) == [0, 1, 4]


def test_ctrl_c_while_waiting(imap, gate):
    iterator = imap(tasks.pass_gate, [gate.path] * 2)

    def interrupt():
        gate.await_tasks()
        wait_until(lambda: sleeps(os.getpid()), DEADLINE)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        killer = Background(interrupt)
        next(iterator)
    killer.result()
    gate.open()
    assert list(iterator) == [None, None]


def test_an_input_that_needs_earlier_results(imap):
    """The input is not read by the thread that takes the results."""
    ready = threading.Semaphore(1)

    def source():
        for i in range(5):
            assert ready.acquire(timeout=DEADLINE)
            yield i

    found = []
    for value in imap(tasks.square, source()):
        found.append(value)
        ready.release()
    assert sorted(found) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stop_iteration_of_a_call_does_not_end_it(mp_pool, ordered):
    pool = mp_pool(1)
    results = (pool.imap if ordered else pool.imap_unordered)(stop_at_1, range(3))
    assert next(results) == 0
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        next(results)
    assert caught.value.__cause__.args == ("one",)
    assert list(results) == [2]


def stop_at_1(value):
    if value == 1:
        raise StopIteration("one")
    return value
