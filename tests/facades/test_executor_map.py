"""TaskPoolExecutor.map."""

from __future__ import annotations

import itertools

import pytest

import tasks
from celery_pool import (
    TaskPoolExecutor,
)
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


@pytest.mark.parametrize(
    "options, error",
    [
        ({"chunksize": 0}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": "1"}, TypeError),
    ],
)
def test_map_refuses(executor, options, error):
    with pytest.raises(error):
        executor().map(abs, [1], **options)
