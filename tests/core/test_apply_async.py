"""apply_async: targets, arguments, what is queued and what is not."""

from __future__ import annotations

import functools
import math
import multiprocessing.pool
import operator
import os
import socket
from collections import OrderedDict, UserDict, namedtuple
from multiprocessing import resource_sharer
from types import MappingProxyType

import pytest

import tasks
from celery_pool import AsyncResult
from support import CANNOT_PICKLE, DEADLINE, Calls, Gate, at_rest, named


def test_runs_in_a_worker(pool, start_method):
    p = pool(2)
    results = [p.apply_async(tasks.pid) for _ in range(20)]
    pids = {r.get(DEADLINE) for r in results}
    assert os.getpid() not in pids
    assert pids <= set(p.get_worker_pids())
    assert all(isinstance(r, multiprocessing.pool.AsyncResult) for r in results)
    assert all(type(r) is AsyncResult for r in results)


def test_callback_and_meta(pool, start_method):
    p = pool(2)
    calls, meta = Calls(), {"delivery_tag": 7}
    p.apply_async(tasks.same, (41,), callbacks=[calls], meta=meta).get(DEADLINE)
    assert calls.calls == [(41, meta)]
    assert calls.calls[0][1] is meta


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (None, ()),
        ((), ()),
        ([], ()),
        ((1, 2), (1, 2)),
        ([1, 2], (1, 2)),
        (range(3), (0, 1, 2)),
        (iter([5]), (5,)),
        (Pair(1, 2), (1, 2)),
        ((None,), (None,)),
    ],
    ids=named,
)
def test_positional_arguments(pool, args, expected):
    assert pool(1).apply_async(tasks.echo, args).get(DEADLINE) == (expected, {})


@pytest.mark.parametrize(
    "target", [tasks.echo, functools.partial(tasks.echo)], ids=["id", "pickled"]
)
@pytest.mark.parametrize(
    "kwargs",
    [None, {}, {"a": 1}, OrderedDict(b=2), UserDict(c=3), MappingProxyType({"d": 4})],
    ids=["None", "empty", "dict", "OrderedDict", "UserDict", "mappingproxy"],
)
def test_keyword_arguments(pool, target, kwargs):
    p = pool(1)
    before = p.get_worker_pids()
    assert p.apply_async(target, (1,), kwargs).get(DEADLINE) == ((1,), dict(kwargs or {}))
    assert p.get_worker_pids() == before


def test_all_parameters_by_position(pool):
    p = pool(1)
    good, bad, acks = Calls(), Calls(), []
    r = p.apply_async(tasks.echo, (1,), {"k": 2}, [good], [bad], lambda: acks.append(1), {"m": 3})
    assert r.get(DEADLINE) == ((1,), {"k": 2})
    assert (good.calls, bad.calls, acks) == ([(((1,), {"k": 2}), {"m": 3})], [], [1])


@pytest.mark.parametrize(
    ("target", "args", "expected"),
    [
        (math.sqrt, (16,), 4.0),
        (len, ("abc",), 3),
        (max, (1, 5, 2), 5),
        (int, ("12",), 12),
        (dict, ([(1, 2)],), {1: 2}),
        (str.upper, ("a",), "A"),
        ("x".join, (["a", "b"],), "axb"),
        ([3, 1].count, (3,), 1),
        (operator.itemgetter(1), ("ab",), "b"),
        (functools.partial(tasks.same, 9), (), 9),
        (functools.partial(divmod, 7), (2,), (3, 1)),
        (tasks.Point, (1, 2), tasks.Point(1, 2)),
        (tasks.Point(2, 3).scaled, (2,), tasks.Point(4, 6)),
        (tasks.Point(2), (5,), 7),
        (tasks.Point.diagonal, (4,), tasks.Point(4, 4)),
        (tasks.Point.zero, (), 0),
    ],
    ids=named,
)
def test_kinds_of_targets(pool, target, args, expected):
    p = pool(1)
    assert [p.apply_async(target, args).get(DEADLINE) for _ in range(2)] == [expected, expected]


def test_state_of_a_bound_target_is_taken_each_time(pool):
    p = pool(1)
    point = tasks.Point(1)
    first = p.apply_async(point, (0,))
    point.x = 2
    second = p.apply_async(point, (0,))
    assert (first.get(DEADLINE), second.get(DEADLINE)) == (1, 2)


def test_what_only_multiprocessing_can_pickle(pool):
    left, right = socket.socketpair()
    with left, right:
        pool(1).apply_async(socket.socket.send, (right, b"hello")).get(DEADLINE)
        left.settimeout(DEADLINE)
        assert left.recv(5) == b"hello"
    resource_sharer.stop(DEADLINE)  # multiprocessing's thread that handed it over


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (tasks.same, (lambda: None,), None),
        (tasks.same, (tasks.RaisesWhenPickled(ZeroDivisionError),), None),
        (tasks.same, (tasks.RaisesWhenPickled(SystemExit),), None),
        (tasks.echo, (), {"f": lambda: None}),
        (lambda: None, (), None),
        (functools.partial(tasks.same, lambda: None), (), None),
    ],
    ids=["args", "own error", "SystemExit", "kwargs", "lambda", "partial"],
)
def test_unpicklable_arguments_queue_nothing(pool, target, args, kwargs):
    p = pool(1)
    bad = Calls()
    with pytest.raises(BaseException) as caught:
        p.apply_async(target, args, kwargs, errbacks=bad)
    assert "pickl" in str(caught.value) or isinstance(caught.value, ZeroDivisionError)
    assert p.statistics().submitted == 0
    assert at_rest(p)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert not bad.calls


def test_unpicklable_arguments_raise_also_when_the_pool_is_full(pool, tmp_path):
    p = pool(1)
    gate = Gate(tmp_path)
    r = p.apply_async(tasks.pass_gate, (gate.path, 3))
    with pytest.raises(CANNOT_PICKLE, match="local object"):
        p.apply_async(tasks.same, (lambda: None,))
    gate.open()
    assert r.get(DEADLINE) == 3


def test_arguments_are_taken_when_submitted(pool, tmp_path):
    p = pool(2, processes=1)
    gate = Gate(tmp_path)
    values = [1]
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    second = p.apply_async(tasks.same, (values,))
    values.append(2)
    gate.open()
    first.get(DEADLINE)
    assert second.get(DEADLINE) == [1]


def test_meta_never_leaves_the_parent(pool):
    class Message:
        def __reduce__(self):
            raise AssertionError("meta was pickled")

    meta = Message()
    calls = Calls()
    r = pool(1).apply_async(tasks.same, (1,), callbacks=calls, meta=meta)
    r.get(DEADLINE)
    assert calls.calls[0][1] is meta is r.meta


@pytest.mark.parametrize("meta", [{}, [], 0, "", False, ()], ids=named)
def test_falsy_meta_is_kept(pool, meta):
    calls = Calls()
    r = pool(1).apply_async(tasks.same, (1,), callbacks=calls, meta=meta)
    r.get(DEADLINE)
    assert calls.calls[0][1] is meta is r.meta


def test_no_meta_is_an_empty_dict_of_its_own(pool):
    p = pool(1)
    calls = Calls()
    results = [p.apply_async(tasks.same, (i,), callbacks=[calls, calls]) for i in range(2)]
    for r in results:
        r.get(DEADLINE)
    metas = [meta for _, meta in calls.calls]
    assert metas == [{}] * 4
    assert metas[0] is metas[1] is results[0].meta
    assert metas[0] is not metas[2]


def test_every_task_starts_once(pool, tmp_path):
    p = pool(50, processes=2)
    log = tmp_path / "log"
    results = [p.apply_async(tasks.append, (str(log), str(i))) for i in range(500)]
    for r in results:
        r.get(DEADLINE)
    assert sorted(map(int, log.read_text().split())) == list(range(500))


def test_one_worker_keeps_the_order(pool):
    p = pool(100, processes=1)
    calls = Calls()
    for i in range(1000):
        p.apply_async(tasks.same, (i,), callbacks=calls)
    calls.wait(1000)
    assert calls.values == list(range(1000))
