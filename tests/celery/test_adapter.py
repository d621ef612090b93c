"""The pool that Celery's class has, without a worker around it: on kombu's event loop."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder

from billiard import exceptions
from billiard.pool import MaybeEncodingError
from celery import Celery
from celery.app import trace
from kombu.asynchronous import Hub

import support
from celery_pool import errors
from celery_pool.ext.celery import adapter, outcomes
from guards import wait_until
from support import Gate
from tasks import pass_gate, unpicklable


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def pool(hub: Hub) -> Iterator[Callable[..., adapter.EventLoopPool]]:
    made: list[adapter.EventLoopPool] = []

    def make(processes: int = 1) -> adapter.EventLoopPool:
        app = Celery("adapter", broker="memory://", set_as_current=False)
        one = adapter.EventLoopPool(
            processes=processes,
            initializer=begin,
            initargs=(app, "here"),
            on_process_exit=end,
            pool_options={"context": "fork"},
        )
        one.register_with_event_loop(hub)
        made.append(one)
        return one

    yield make
    while made:  # pytest holds on to `make`, so keep no pool in it
        made.pop().terminate()


def begin(app: Celery, hostname: str) -> None:
    pass


def end(pid: int, exitcode: int) -> None:
    pass


class Told:
    """What is called back, in its order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "accept_callback": lambda pid, when: self.calls.append(("accepted", pid)),
            "callback": lambda value: self.calls.append(("value", value)),
            "error_callback": lambda info: self.calls.append(("error", info.exception)),
        }


def turn_until(hub: Hub, condition: Callable[[], Any]) -> Any:
    """Turns the event loop, in this thread."""
    loop = hub.create_loop()
    hub.call_repeatedly(0.01, lambda: None)  # no turn is longer

    def turned() -> Any:
        next(loop)
        return condition()

    return wait_until(turned)


def test_a_signal_for_a_process_whose_task_has_ended_hits_nobody(pool, hub, gate: Gate) -> None:
    """Celery goes by the pid that had the task; another one may run there now."""
    one = pool()
    told = Told()
    one.apply_async(os.getpid, (), {}, **told.callbacks())
    turn_until(hub, lambda: len(told.calls) == 2)
    (_, pid), (_, value) = told.calls
    assert value == pid
    job = one.apply_async(os.getpid, (), {}, **told.callbacks())
    turn_until(hub, lambda: len(told.calls) == 4)
    following = Told()
    one.apply_async(pass_gate, (gate.path,), {}, **following.callbacks())
    turn_until(hub, lambda: following.calls)
    job.terminate(signal.SIGKILL)  # as Request does, of the task before
    gate.open()
    turn_until(hub, lambda: len(following.calls) == 2)
    assert following.calls == [("accepted", pid), ("value", None)]


def test_what_has_not_begun_when_the_broker_is_lost_is_dropped(pool, hub, gate: Gate) -> None:
    """It is sent again; what has begun is kept."""
    one = pool()
    running, waiting = Told(), Told()
    one.apply_async(pass_gate, (gate.path,), {}, **running.callbacks())
    turn_until(hub, lambda: running.calls)
    one.apply_async(os.getpid, (), {}, **waiting.callbacks())
    one.flush()
    hub.reset()
    one.register_with_event_loop(hub)
    gate.open()
    turn_until(hub, lambda: len(running.calls) == 2)
    later = Told()
    one.apply_async(os.getpid, (), {}, **later.callbacks())
    turn_until(hub, lambda: len(later.calls) == 2)
    assert waiting.calls == []


def test_arguments_travel_once(pool, hub, monkeypatch) -> None:
    """What is sent of a task, pickled, is hardly longer than its body."""
    sent = []

    class Listening(adapter.TaskPool):
        def apply_async(self, target, args, *rest, **options):
            sent.append(len(pickle.dumps(args)))
            return super().apply_async(target, args, *rest, **options)

    monkeypatch.setattr(adapter, "TaskPool", Listening)
    one = pool()
    told = Told()
    body = pickle.dumps((("x" * 10_000,), {}, {}))
    request = {"id": "1", "args": ["x" * 10_000], "kwargs": {}}
    args = ("no such task", "1", request, body, "application/x-python-serialize", "binary")
    one.apply_async(trace.fast_trace_task, args, {}, **told.callbacks())
    turn_until(hub, lambda: len(told.calls) == 2)
    assert len(sent) == 1
    assert sent[0] < 1.1 * len(body)
    assert request["args"], "the request itself is as it was"


def test_a_result_that_cannot_be_pickled(pool, hub) -> None:
    one = pool()
    told = Told()
    one.apply_async(unpicklable, (), {}, **told.callbacks())
    turn_until(hub, lambda: len(told.calls) == 2)
    (_, (kind, error)) = told.calls
    assert (kind, type(error.exc)) == ("error", MaybeEncodingError)


@pytest.mark.parametrize(
    "ours, theirs, text",
    [
        (errors.TimeLimitExceeded(2.5, 7, "", 1), exceptions.TimeLimitExceeded, "(2.5,)"),
        (errors.TaskTerminated(7, 15, 1), exceptions.Terminated, "15"),
        (
            errors.WorkerLostError(7, -9, tid=1),
            exceptions.WorkerLostError,
            "Worker exited prematurely: signal 9 (SIGKILL) Job: 1.",
        ),
        (
            errors.WorkerLostError(7, -9, out_of_memory=True, tid=1),
            exceptions.WorkerLostError,
            "signal 9 (SIGKILL) Job: 1. Probably out of memory.",
        ),
        (errors.WorkerLostError(7, 3, tid=1), exceptions.WorkerLostError, "exitcode 3 Job: 1."),
        (
            errors.MemoryLimitExceeded(200, 100, 7, 1),
            exceptions.WorkerLostError,
            "task 1 in worker 7 used 200 KiB, more than 100 KiB.",
        ),
        (errors.PoolTerminated(tid=1), exceptions.WorkerLostError, "the pool was terminated."),
        (errors.CrashLoopError("no more"), exceptions.WorkerLostError, "prematurely: no more."),
        (ValueError("its own"), ValueError, "its own"),
    ],
    ids=support.named,
)
def test_in_celerys_words(ours: Exception, theirs: type[Exception], text: str) -> None:
    info = outcomes.failure(ours, 2.5)
    error = info.exception.exc
    assert type(error) is theirs
    assert text in str(error)
    assert theirs.__name__ in info.traceback


def test_nothing_is_taken_once_it_is_closed(pool, hub) -> None:
    one = pool()
    told = Told()
    one.apply_async(os.getpid, (), {}, **told.callbacks())
    one.close()
    assert one.apply_async(os.getpid, (), {}, **told.callbacks()) is None
    one.join()
    assert len(told.calls) == 2
