"""Payloads of any size, in both directions, around every boundary of the transport."""

from __future__ import annotations

import os
import pickle
import random

import pytest

import tasks
from celery_pool import PoolError
from segments import payload_bytes
from support import CANNOT_PICKLE, DEADLINE, Background, Calls, Gate

RING = 256 * 1024
LINE = 64
HEADER = 32
LONGEST = RING // 4 - HEADER  # payload that still goes through a ring

# what pickling adds to bytes of that length: as an argument, as a result
ARGUMENT = {n: len(pickle.dumps((bytes(n),), 5)) - n for n in (31, 1000, 65000)}
RESULT = {n: len(pickle.dumps(bytes(n), 5)) - n for n in (31, 1000, 65000)}

SMALL = [
    0,
    1,
    15,
    16,
    17,
    30,
    31,
    32,
    33,
    63,
    64,
    65,
    95,
    96,
    97,
    127,
    128,
    255,
    256,
    257,
    4095,
    4096,
]


def around(size, overhead):
    return [size - overhead + d for d in (-2, -1, 0, 1, 2)]


MIDDLE = [
    *around(LONGEST, ARGUMENT[65000]),
    *around(LONGEST, RESULT[65000]),
    *around(RING // 4, RESULT[65000]),
    *around(65536, 0),
]


def data_of(size):
    return tasks.pattern(size)


def test_small_sizes_both_ways(pool, start_method):
    p = pool(64, processes=2)
    results = [(n, p.apply_async(tasks.same, (data_of(n),))) for n in range(200)]
    results += [(n, p.apply_async(tasks.same, (data_of(n),))) for n in SMALL]
    for n, r in results:
        assert r.get(DEADLINE) == data_of(n), n


def test_payloads_at_every_line(pool):
    """All lengths modulo the unit of frames, in both directions separately."""
    p = pool(64, processes=2)
    for n in range(4000, 4000 + 2 * LINE):
        data = data_of(n)
        up, down = p.apply_async(tasks.digest, (data,)), p.apply_async(tasks.pattern, (n,))
        assert up.get(DEADLINE) == tasks.digest(data)
        assert down.get(DEADLINE) == data


@pytest.mark.parametrize("size", sorted(set(MIDDLE)))
def test_around_a_quarter_of_the_ring(pool, size):
    p = pool(8, processes=1)
    data = data_of(size)
    ways = [
        (p.apply_async(tasks.digest, (data,)), tasks.digest(data)),
        (p.apply_async(tasks.pattern, (size,)), data),
        (p.apply_async(tasks.same, (data,)), data),
        (p.apply_async(tasks.echo, (), {"data": data}), ((), {"data": data})),
        (p.apply_async(tasks.Point(0).__eq__, (data,)), False),
    ]
    for _ in range(3):  # so that the rings go round
        ways.append((p.apply_async(tasks.same, (data,)), data))
    for r, expected in ways:
        assert r.get(DEADLINE) == expected


@pytest.mark.parametrize("size", [RING // 2, RING, RING + 1, 2**20 - 1, 2**20, 2**20 + 1])
def test_beyond_the_ring(pool, size):
    p = pool(4, processes=2)
    data = data_of(size)
    assert p.apply_async(tasks.same, (data,)).get(DEADLINE) == data


def test_twenty_mebibytes(pool, start_method):
    p = pool(2)
    data = os.urandom(2**20) * 20
    calls = Calls()
    r = p.apply_async(tasks.same, (data,), callbacks=calls)
    assert r.get(DEADLINE) == data
    assert calls.values[0] is r.get()
    assert p.apply_async(tasks.digest, (data,)).get(DEADLINE) == tasks.digest(data)


def test_mixed_sizes_in_a_stream(pool):
    p = pool(40, processes=2)
    chance = random.Random(7)
    calls = Calls()
    sizes = [int(2 ** chance.uniform(0, 18)) for _ in range(600)]

    def submit():
        for n in sizes:
            p.apply_async(tasks.same, (data_of(n),), callbacks=calls, meta=n)
        while p.wait_for_result():
            pass

    Background(submit).result(40)
    assert len(calls) == 600
    for value, n in calls.calls:
        assert value == data_of(n)


def test_more_than_the_ring_holds_while_nobody_collects(pool):
    """The worker waits for room, and for nothing else."""
    p = pool(None, processes=1, callbacks_in="caller")
    calls = Calls()
    for i in range(300):
        p.apply_async(tasks.pattern, (20_000 + i,), callbacks=calls)
    while p.wait_for_result():
        pass
    assert [len(v) for v in calls.values] == [20_000 + i for i in range(300)]


def test_a_backlog_of_long_arguments(pool, tmp_path):
    gate = Gate(tmp_path)
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    results = [p.apply_async(tasks.digest, (data_of(50_000 + i),)) for i in range(100)]
    gate.open()
    first.get(DEADLINE)
    for i, r in enumerate(results):
        assert r.get(DEADLINE) == tasks.digest(data_of(50_000 + i))


def test_what_is_long_and_not_bytes(pool):
    p = pool(2)
    value = {
        "text": "ü" * 100_000,
        "list": list(range(50_000)),
        "nested": [{i: [i]} for i in range(5_000)],
    }
    assert p.apply_async(tasks.same, (value,)).get(DEADLINE) == value


def test_a_long_result_nobody_fetches_is_given_back(pool):
    p = pool(2, processes=1)
    before = payload_bytes(p)
    for _ in range(20):
        p.apply_async(tasks.zeros, (4_000_000,)).wait(DEADLINE)
    assert payload_bytes(p) - before < 20_000_000


def test_long_arguments_are_given_back(pool):
    p = pool(2, processes=1)
    before = payload_bytes(p)
    for _ in range(20):
        p.apply_async(tasks.digest, (bytes(4_000_000),)).get(DEADLINE)
    assert payload_bytes(p) - before < 20_000_000


def test_unpicklable_among_the_long(pool):
    p = pool(2)
    with pytest.raises(CANNOT_PICKLE, match="local object"):
        p.apply_async(tasks.same, (bytes(1_000_000), lambda: None))
    r = p.apply_async(tasks.echo, (bytes(1_000_000), tasks.OnlyHere()))
    with pytest.raises((ValueError, PoolError), match="cannot be moved"):
        r.get(DEADLINE)
    assert p.apply_async(tasks.zeros, (1_000_000,)).get(DEADLINE) == bytes(1_000_000)
