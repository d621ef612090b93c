"""on_acknowledge: without arguments, once, in the parent, before the other callbacks."""

from __future__ import annotations

import os
import signal

import pytest

import tasks
from celery_pool import WorkerLostError
from guards import wait_until
from support import (
    CANNOT_PICKLE,
    DEADLINE,
    Background,
    Calls,
    Log,
    Recorder,
    at_rest,
    collected,
)


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
@pytest.mark.parametrize("target", [tasks.same, tasks.fail], ids=["success", "failure"])
def test_once_before_the_callbacks(pool, mode, target):
    p = pool(2, callbacks_in=mode)
    order = []
    for _ in range(20):
        p.apply_async(
            target,
            (ValueError,),
            callbacks=lambda *_: order.append("callback"),
            errbacks=lambda *_: order.append("callback"),
            on_acknowledge=lambda *args: order.append(("ack", args, os.getpid())),
        ).wait(DEADLINE)
    assert order == [("ack", (), os.getpid()), "callback"] * 20


def test_without_callbacks(pool):
    acks = []
    r = pool(1).apply_async(tasks.same, (1,), on_acknowledge=lambda: acks.append(1))
    assert r.get(DEADLINE) == 1
    assert acks == [1]


def test_when_the_worker_has_claimed_it(pool, gate, start_method):
    p = pool(1)
    acks = []
    r = p.apply_async(tasks.pass_gate, (gate.path, 1), on_acknowledge=lambda: acks.append(1))
    wait_until(lambda: acks, DEADLINE)
    assert not r.ready()
    assert r.worker_pid == p.get_worker_pids()[0]
    gate.open()
    assert r.get(DEADLINE) == 1
    assert acks == [1]


def test_delivered_by_a_caller_only(pool, gate):
    p = pool(1, callbacks_in="caller")
    acks = []
    r = p.apply_async(tasks.pass_gate, (gate.path, 1), on_acknowledge=lambda: acks.append(1))
    gate.await_tasks()
    wait_until(lambda: p.reap() == 0 and acks, DEADLINE)
    assert acks == [1]
    gate.open()
    assert r.get(DEADLINE) == 1
    assert acks == [1]


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_also_if_the_worker_dies_later(pool, gate, mode):
    p = pool(1, callbacks_in=mode)
    order = []
    r = p.apply_async(
        tasks.pass_gate,
        (gate.path,),
        errbacks=lambda exc, meta: order.append(type(exc)),
        on_acknowledge=lambda: order.append("ack"),
    )
    os.kill(gate.await_tasks()[0], signal.SIGKILL)
    Background(r.wait, DEADLINE).result()
    assert order == ["ack", WorkerLostError]


def test_also_if_the_worker_dies_at_once(pool):
    p = pool(1)
    for _ in range(10):
        order = []
        r = p.apply_async(
            tasks.die,
            errbacks=lambda exc, meta, order=order: order.append(type(exc)),
            on_acknowledge=lambda order=order: order.append("ack"),
        )
        Background(r.wait, DEADLINE).result()
        assert order == ["ack", WorkerLostError]


def test_never_if_the_task_did_not_start(pool, gate):
    p = pool(3, processes=1)
    acks, errors = [], Calls()
    p.apply_async(
        tasks.pass_gate, (gate.path,), on_acknowledge=lambda: acks.append(1), errbacks=errors
    )
    gate.await_tasks()
    for i in (2, 3):
        p.apply_async(tasks.nothing, on_acknowledge=lambda i=i: acks.append(i), errbacks=errors)
    Background(p.terminate).result()
    assert acks == [1]
    assert len(errors) == 3


def test_never_for_one_that_cannot_be_pickled(pool):
    p = pool(1)
    acks = []
    with pytest.raises(CANNOT_PICKLE, match="local object"):
        p.apply_async(tasks.same, (lambda: 0,), on_acknowledge=lambda: acks.append(1))
    p.apply_async(tasks.nothing).get(DEADLINE)
    assert not acks


def test_its_exception_is_logged_and_the_task_goes_on(pool):
    log = Log()
    p = pool(1, logger=log.logger)
    calls = Calls()

    def broken():
        raise ZeroDivisionError("in the acknowledgement")

    r = p.apply_async(tasks.same, (1,), callbacks=calls, on_acknowledge=broken)
    assert r.get(DEADLINE) == 1
    assert calls.values == [1]
    assert p.statistics().callback_errors == 1
    assert log.kinds == [ZeroDivisionError]


def test_submitting_from_it(pool):
    p = pool(1)
    calls = Calls()
    p.apply_async(
        tasks.nothing, on_acknowledge=lambda: p.apply_async(tasks.same, (1,), callbacks=calls)
    )
    calls.wait()


def test_with_on_return_by_hand_in_between(pool, gate):
    """The acknowledgement of a task that was taken out is due once or not at all."""
    log = Log()
    p = pool(2, processes=1, callbacks_in="caller", logger=log.logger)
    acks, calls = [], Calls()
    r = p.apply_async(
        tasks.pass_gate, (gate.path,), callbacks=calls, on_acknowledge=lambda: acks.append(1)
    )
    gate.await_tasks()
    wait_until(lambda: r.worker_pid is not None, DEADLINE)
    p.on_return("by hand", r.tid, [calls], [], {})
    gate.open()
    p.reap(timeout=1)
    assert calls.values == ["by hand"]
    assert len(acks) <= 1
    assert log.text == ""
    assert p.statistics().callback_errors == 0
    assert at_rest(p)


def test_overridden_hooks_still_acknowledge(pool, gate):
    p = Recorder(1, context="fork")
    acks = []
    with p:
        p.apply_async(tasks.nothing, on_acknowledge=lambda: acks.append(1)).get(DEADLINE)
        assert acks == [1]
        assert len(p.returned) == 1


def test_acks_do_not_count_as_reaped(pool, gate):
    p = pool(1, callbacks_in="caller")
    calls = Calls()
    p.apply_async(
        tasks.pass_gate, (gate.path,), callbacks=calls, on_acknowledge=lambda: calls("ack")
    )
    gate.await_tasks()
    wait_until(lambda: p.reap() or calls.calls, DEADLINE)
    assert calls.values == ["ack"]
    gate.open()
    collected(p, 1)
    assert p.reap() == 1
