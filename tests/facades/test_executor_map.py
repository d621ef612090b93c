"""TaskPoolExecutor.map."""

from __future__ import annotations

import itertools
import time
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest

import tasks
from celery_pool import SoftTimeLimitExceeded, TaskPoolExecutor, WorkerLostError
from celery_pool.wire.remote import UnpicklableError
from guards import wait_until
from support import DEADLINE, Gate

# ---- map ----


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 4])
def test_map(executor, chunksize, buffersize):
    one = executor()
    got = one.map(pow, range(20), itertools.repeat(2), chunksize=chunksize, buffersize=buffersize)
    assert list(got) == [i * i for i in range(20)]
    assert list(one.map(pow, [], [], chunksize=chunksize, buffersize=buffersize)) == []


def test_map_with_a_buffer_reads_as_it_goes(executor):
    one = executor()
    read = []

    def numbers():
        for i in itertools.count():
            read.append(i)
            yield i

    results = one.map(tasks.same, numbers(), buffersize=5)
    assert read == [0, 1, 2, 3, 4]
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(read) == 15
    results.close()
    read.clear()
    results = one.map(tasks.same, numbers(), buffersize=2, chunksize=3)
    assert len(read) == 6
    assert next(results) == 0
    assert len(read) == 9
    results.close()


def test_map_with_a_buffer_keeps_the_executor():
    results = TaskPoolExecutor(1, "fork").map(tasks.same, range(10), buffersize=2)
    assert list(results) == list(range(10))


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_cancels_the_rest(executor, tmp_path, chunksize):
    gate = Gate(tmp_path)
    one = executor(1)
    core = one._life.pool._core
    results = one.map(tasks.pass_gate, [gate.path] * 8, timeout=0.1, chunksize=chunksize)
    with pytest.raises(TimeoutError):
        next(results)
    assert core.in_flight <= 2  # the one that runs, and one that may be about to
    gate.open()
    one.shutdown()


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_that_is_closed_cancels_the_rest(executor, tmp_path, chunksize):
    gate = Gate(tmp_path)
    one = executor(1)
    values = [(gate.path, 0)] * chunksize + [(gate.path, i) for i in range(1, 9)]
    results = one.map(pass_or_wait, values, chunksize=chunksize)
    assert next(results) == 0
    gate.await_tasks()
    results.close()
    wait_until(lambda: one._life.pool._core.in_flight == 1, DEADLINE, "the rest cancelled")
    gate.open()
    one.shutdown()


@pytest.mark.parametrize("options", [{}, {"buffersize": 2}, {"timeout": DEADLINE}])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_nothing_comes_out_of_a_map_that_was_closed(executor, chunksize, options):
    results = executor().map(tasks.same, range(10), chunksize=chunksize, **options)
    assert next(results) == 0
    results.close()
    assert list(results) == []
    results.close()


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_worker_that_dies_in_a_map_of_an_executor_that_it_breaks(executor, chunksize):
    one = executor(1, lost_breaks_pool=True)
    results = one.map(tasks.die_at, [0, 0, 1, 2], [1] * 4, chunksize=chunksize)
    assert [next(results), next(results)] == [0, 0]
    with pytest.raises(BrokenProcessPool):
        next(results)


def pass_or_wait(value):
    path, number = value
    return tasks.pass_gate(path, number) if number else number


def test_map_whose_input_raises(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    one.submit(tasks.nothing).result(DEADLINE)

    def values():
        yield from [gate.path] * 5
        raise ZeroDivisionError("input")

    with pytest.raises(ZeroDivisionError, match="input"):
        one.map(tasks.pass_gate, values())
    wait_until(lambda: one._life.pool._core.in_flight <= 1, DEADLINE, "the rest cancelled")
    gate.open()


def outcomes(results):
    """Results, and types of exceptions where one is raised."""
    while True:
        try:
            yield next(results)
        except StopIteration:
            return
        except Exception as error:
            yield type(error)


@pytest.mark.parametrize("chunksize", [1, 2, 3, 10])
@pytest.mark.parametrize("buffersize", [None, 1, 2])
def test_map_goes_on_after_an_exception(executor, chunksize, buffersize):
    """As built-in map() does, and concurrent.futures' from Python 3.16 on."""
    one = executor()
    values = [1, 0, 2, 0, 0, 4]
    results = one.map(tasks.invert, values, chunksize=chunksize, buffersize=buffersize)
    zero = ZeroDivisionError
    assert list(outcomes(results)) == [1, zero, 0.5, zero, zero, 0.25]
    assert list(results) == []


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_keeps_no_result_that_it_has_yielded(executor, chunksize):
    for result in executor().map(tasks.Point, range(5), chunksize=chunksize):
        gone = weakref.ref(result)
        del result
        assert gone() is None


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_stop_iteration_of_a_call_does_not_end_it(executor, chunksize):
    results = executor().map(stop_at_2, range(4), chunksize=chunksize)
    assert list(outcomes(results)) == [0, 1, RuntimeError, 3]


def stop_at_2(value):
    if value == 2:
        raise StopIteration("two")
    return value


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_timeout_error_of_a_call_is_an_exception_as_any_other(executor, chunksize):
    results = executor().map(time_out_at_2, range(4), chunksize=chunksize, timeout=DEADLINE)
    assert list(outcomes(results)) == [0, 1, TimeoutError, 3]


def time_out_at_2(value):
    if value == 2:
        raise TimeoutError
    return value


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_exception_in_map_has_the_workers_traceback(executor, chunksize):
    results = executor().map(tasks.fail_deeply, ["a", "b"], chunksize=chunksize)
    for text in "a", "b":
        with pytest.raises(ValueError, match=text) as caught:
            next(results)
        assert "the_innermost_function" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "error, arrives", [(tasks.Stubborn, UnpicklableError), (tasks.Unprintable, tasks.Unprintable)]
)
def test_odd_exceptions_in_a_chunk(executor, error, arrives):
    results = executor().map(tasks.fail, [error, LookupError], chunksize=2)
    assert list(outcomes(results)) == [arrives, LookupError]


def test_what_ends_a_whole_chunk_is_raised_once(executor):
    one = executor(1, soft_timeout=0.2)
    results = one.map(time.sleep, [0, 60, 60, 0], chunksize=3)
    assert list(outcomes(results)) == [SoftTimeLimitExceeded, None]
    results = one.map(exit_at, [0, 1, 2, 3], [1] * 4, chunksize=2)
    with pytest.raises(SystemExit):
        next(results)
    assert list(results) == [2, 3]
    results = one.map(tasks.die_at, [0, 1, 2, 3], [1] * 4, chunksize=2)
    assert list(outcomes(results)) == [WorkerLostError, 2, 3]


def exit_at(value, when):
    if value == when:
        raise SystemExit(3)
    return value


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_loop_that_an_exception_leaves_cancels_the_rest(executor, tmp_path, chunksize):
    gate = Gate(tmp_path)
    one = executor(1)
    values = [0] * chunksize + [gate.path] * 8
    with pytest.raises(LookupError) as caught:
        for _ in one.map(fail_or_pass_gate, values, chunksize=chunksize):
            raise AssertionError("no result")
    # while the traceback is alive
    wait_until(lambda: one._life.pool._core.in_flight <= 2, DEADLINE, "the rest cancelled")
    assert caught.tb is not None
    gate.open()


def fail_or_pass_gate(path):
    if not path:
        raise LookupError
    return tasks.pass_gate(path)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"chunksize": 0}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "1"}, TypeError),
        ({"buffersize": 2.5}, TypeError),
        ({"chunksize": 1.5}, TypeError),
    ],
)
def test_map_refuses(executor, options, error):
    with pytest.raises(error):
        executor().map(abs, [1], **options)
