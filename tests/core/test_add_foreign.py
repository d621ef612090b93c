"""add(): results of others in the pool's queue."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import CancelledError, Future
from multiprocessing.pool import ThreadPool

import pytest

import tasks
from celery_pool import ExceptionInfo, PoolTerminated
from guards import wait_until
from support import (
    DEADLINE,
    Background,
    Calls,
    Gate,
    Recorder,
    at_rest,
    collected,
    failure,
    named,
    run_script,
    stays,
    took,
)


class Foreign:
    """The least that add() takes."""

    def __init__(self) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self.is_ready = False
        self.looked = 0

    def finish(self, value: object = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error
        self.is_ready = True

    def ready(self) -> bool:
        self.looked += 1
        return self.is_ready

    def get(self) -> object:
        assert self.is_ready
        if self.error is not None:
            raise self.error
        return self.value


def finished(value: object = None) -> Foreign:
    result = Foreign()
    result.finish(value)
    return result


KINDS = {
    "object": (Foreign, Foreign.finish, lambda f, e: f.finish(error=e)),
    "future": (Future, lambda f, value=None: f.set_result(value), Future.set_exception),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_success(pool, kind, mode):
    make, finish, _ = kind
    p = pool(2, callbacks_in=mode)
    good, bad = Calls(), Calls()
    foreign = make()
    tid = p.add(foreign, [good], [bad], meta="m")
    assert p.statistics().in_flight == 1
    assert not good.calls
    finish(foreign, 5)
    assert Background(p.wait_for_result).result() == 1 or good.calls
    wait_until(lambda: good.calls, DEADLINE)
    assert good.calls == [(5, "m")]
    assert not bad.calls
    assert tid is not None
    wait_until(lambda: at_rest(p), DEADLINE)


def test_success_in_the_background(pool, kind):
    make, finish, _ = kind
    p = pool(1)
    good = Calls()
    foreign = make()
    p.add(foreign, good)
    finish(foreign, 5)
    assert good.wait() == [(5, {})]


@pytest.mark.parametrize("error_type", [ValueError, SystemExit])
def test_failure(pool, kind, error_type):
    make, _, fail = kind
    error = error_type("why")
    p = pool(2)
    good, bad = Calls(), Calls()
    foreign = make()
    p.add(foreign, good, bad, meta="m")
    fail(foreign, error)
    wait_until(lambda: bad.calls, 5, "the errback")
    assert bad.calls == [(error, "m")]
    assert not good.calls
    wait_until(lambda: at_rest(p), DEADLINE)
    statistics = p.statistics()
    assert (statistics.succeeded, statistics.failed) == (0, 1)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("mode", ["any", "caller"])
@pytest.mark.parametrize("future", [True, False])
def test_a_failure_with_keyboard_interrupt(mode, future):
    """The task's, not ours: delivered once. In another process: if it is taken for a
    Ctrl-C it ends the test run."""
    done = run_script(
        f"""
from concurrent.futures import Future
from celery_pool import TaskPool

class Foreign:
    def ready(self):
        return True
    def get(self):
        raise KeyboardInterrupt("the task's")

seen = []
with TaskPool(1, context="fork", callbacks_in={mode!r}) as pool:
    foreign = Future() if {future} else Foreign()
    pool.add(foreign, errbacks=lambda exc, meta: seen.append(exc))
    if {future}:
        foreign.set_exception(KeyboardInterrupt("the task's"))
    while pool.wait_for_result():
        pass
print(seen)
""",
        timeout=10,
    )
    assert (done.returncode, done.stdout) == (0, '[KeyboardInterrupt("the task\'s")]\n'), (
        done.stderr
    )


def test_finished_before(pool, kind):
    make, finish, _ = kind
    foreign = make()
    finish(foreign, 1)
    good = Calls()
    pool(1).add(foreign, good)
    good.wait()


def test_a_cancelled_future(pool):
    p = pool(1)
    bad = Calls()
    future: Future[int] = Future()
    p.add(future, errbacks=bad)
    assert future.cancel()
    assert isinstance(bad.wait()[0][0], CancelledError)


def test_a_real_multiprocessing_pool(pool, tmp_path):
    gate = Gate(tmp_path)
    good, bad = Calls(), Calls()
    with multiprocessing.get_context("fork").Pool(1) as other:
        p = pool(3, processes=1)
        first = other.apply_async(tasks.pass_gate, (gate.path, 7))
        second = other.apply_async(tasks.fail, (KeyError, "k"))
        p.add(first, good, bad, meta="first")
        p.add(second, good, bad, meta="second")
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
        gate.open()
        good.wait()
        bad.wait()
        other.close()
        other.join()
    assert good.calls == [(7, "first")]
    assert [(type(e), e.args, m) for e, m in bad.calls] == [(KeyError, ("k",), "second")]


def test_the_documented_use(pool):
    """apply_async of a pool of one's own, its result into the queue."""
    good = Calls()
    p = pool(4, processes=1)
    with ThreadPool(2) as threads:
        for i in range(100):
            p.add(threads.apply_async(tasks.same, (i,)), callbacks=[good], meta={"i": i})
        while p.wait_for_result():
            pass
        threads.close()
        threads.join()
    assert sorted(good.values) == list(range(100))
    assert all(value == meta["i"] for value, meta in good.calls)


def test_counts_against_the_limit(pool, kind):
    make, finish, _ = kind
    p = pool(2)
    foreign = [make(), make()]
    for f in foreign:
        p.add(f)
    assert p.full()
    adder = Background(p.add, finished())
    submitter = Background(p.apply_async, tasks.same, (3,))
    assert stays(lambda: not adder.done and not submitter.done)
    finish(foreign[0])
    finish(foreign[1])
    adder.result()
    assert submitter.result().get(DEADLINE) == 3
    wait_until(lambda: at_rest(p), DEADLINE)


def test_full_waits_for_a_task_and_reaps_it(pool, tmp_path):
    gate, calls = Gate(tmp_path), Calls()
    p = pool(1, callbacks_in="caller")
    p.apply_async(tasks.pass_gate, (gate.path, 1), callbacks=calls)
    adder = Background(p.add, finished(2), calls)
    assert stays(lambda: not adder.done, 0.05)
    gate.open()
    adder.result()
    assert calls.values[0] == 1
    p.wait_for_result()
    assert calls.values == [1, 2]


# ---- tids ----


def test_a_given_tid(pool):
    p = Recorder(4, processes=1, context="fork")
    with p:
        assert p.add(finished(1), tid="mine", meta="m") == "mine"
        assert p.add(finished(2), tid=("a", 1)) == ("a", 1)
        p.close()
        p.join()
    assert [(call[0], call[1]) for call in p.returned] == [(1, "mine"), (2, ("a", 1))]


def test_fresh_tids_are_unique(pool):
    p = pool(100, processes=1)
    tids = [p.add(finished()) if i % 2 else p.apply_async(tasks.nothing).tid for i in range(50)]
    assert len(set(tids)) == 50


def test_fresh_tids_avoid_given_ones(pool):
    p = pool(100, processes=1)
    last = p.apply_async(tasks.nothing).tid
    given = [p.add(Foreign(), tid=last + i) for i in range(2, 6)]
    fresh = [p.apply_async(tasks.nothing).tid for _ in range(3)] + [p.add(finished())]
    assert not set(given) & set(fresh)
    p.terminate()


@pytest.mark.parametrize("tid", ["mine", 10**6, None])
def test_a_tid_in_use(pool, tmp_path, tid):
    gate = Gate(tmp_path)
    p = pool(4, processes=1)
    running = p.apply_async(tasks.pass_gate, (gate.path,))
    queued = p.apply_async(tasks.nothing)
    p.add(Foreign(), tid=tid if tid is not None else running.tid + 10)
    for used in (running.tid, queued.tid, tid if tid is not None else running.tid + 10):
        with pytest.raises(ValueError, match="in use"):
            p.add(Foreign(), tid=used)
    assert p.statistics().in_flight == 3
    gate.open()
    p.terminate()


@pytest.mark.parametrize("foreign", [True, False], ids=["foreign", "own"])
def test_a_tid_is_in_use_until_the_callbacks_are_due(pool, foreign):
    """A collected job is still in the queue: on_return takes it out."""
    p = pool(4, processes=1, callbacks_in="caller")
    calls = Calls()
    if foreign:
        tid = p.add(first := finished(1), calls, tid="mine")
    else:
        tid = p.apply_async(tasks.same, (1,), callbacks=calls).tid
    collected(p, 1)
    with pytest.raises(ValueError, match="in use"):
        p.add(finished(2), tid=tid)
    if foreign:
        with pytest.raises(ValueError, match="already"):
            p.add(first)
    p.reap()
    assert calls.values == [1]


def test_a_tid_is_free_again_afterwards(pool):
    p = pool(1)
    calls = Calls()
    for i in range(3):
        p.add(finished(i), calls, tid="mine")
        calls.wait(i + 1)
        wait_until(lambda: at_rest(p), DEADLINE)
    assert calls.values == [0, 1, 2]


def test_a_result_twice(pool, kind):
    make, finish, _ = kind
    p = pool(4, processes=1)
    foreign = make()
    p.add(foreign)
    with pytest.raises(ValueError, match="already"):
        p.add(foreign)
    assert p.statistics().in_flight == 1
    finish(foreign)
    wait_until(lambda: at_rest(p), DEADLINE)
    p.add(foreign)  # it is not in the queue any more
    wait_until(lambda: at_rest(p), DEADLINE)


@pytest.mark.parametrize("bad", [None, 1, object(), "x", threading.Event()], ids=named)
def test_what_is_no_result(pool, bad):
    p = pool(1)
    with pytest.raises(TypeError, match="ready"):
        p.add(bad)
    assert at_rest(p)


def test_our_own_results_are_results_too(pool, tmp_path):
    """A result of another TaskPool."""
    gate, calls = Gate(tmp_path), Calls()
    one, two = pool(1), pool(1)
    r = one.apply_async(tasks.pass_gate, (gate.path, 1))
    two.add(r, calls)
    assert not calls.calls
    gate.open()
    calls.wait()
    assert calls.values == [1]


# ---- hooks, end ----


def test_the_hooks_see_it(pool):
    p = Recorder(2, processes=1, context="fork")
    good, bad = Calls(), Calls()
    with p:
        p.add(finished(1), [good], [bad], tid="a", meta="m")
        failing = Foreign()
        p.add(failing, [good], [bad], tid="b")
        failing.finish(error=ValueError("v"))
        p.close()
        assert p.join(DEADLINE)
    assert p.returned[0] == (1, "a", [good], [bad], "m")
    assert isinstance(p.returned[1][0], ExceptionInfo)
    assert failure(p.returned[1][0]) is failing.error
    assert (good.values, bad.values) == ([1], [failing.error])


def test_on_return_by_hand(pool, kind):
    make, finish, _ = kind
    p = pool(1)
    given, by_hand = Calls(), Calls()
    foreign = make()
    tid = p.add(foreign, given)
    p.on_return("hand", tid, [by_hand], [], {})
    assert by_hand.values == ["hand"]
    assert at_rest(p)
    finish(foreign, 1)
    p.on_return("again", tid, [by_hand], [], {})
    assert stays(lambda: not given.calls, 0.1)
    assert by_hand.values == ["hand"]


def test_a_late_future_does_not_end_its_successor(pool):
    """Taken out by hand, its tid given to another; then it finishes."""
    p = pool(2, processes=1)
    calls = Calls()
    first: Future[int] = Future()
    second: Future[int] = Future()
    p.add(first, calls, tid="mine")
    p.on_return(None, "mine", [], [], {})
    p.add(second, calls, tid="mine")
    first.set_result(1)
    assert stays(lambda: p.statistics().in_flight == 1, 0.1)
    assert not calls.calls
    second.set_result(2)
    calls.wait()
    assert calls.values == [2]


def test_terminate_ends_it(pool, kind):
    make, finish, _ = kind
    p = pool(2)
    bad, good = Calls(), Calls()
    foreign = make()
    p.add(foreign, good, bad)
    Background(p.terminate).result()
    assert [type(e) for e in bad.values] == [PoolTerminated]
    finish(foreign)
    assert stays(lambda: not good.calls, 0.05)


def test_join_waits_for_it(pool, kind):
    make, finish, _ = kind
    p = pool(2)
    foreign = make()
    p.add(foreign, calls := Calls())
    p.close()
    assert not p.join(0.05)
    joiner = Background(p.join)
    finish(foreign, 1)
    assert joiner.result() is True
    assert calls.values == [1]


@pytest.mark.parametrize("value", [RuntimeError("odd"), None], ids=["raises", "not there"])
def test_a_ready_that_raises(pool, value):
    class Odd(Foreign):
        def ready(self):
            raise RuntimeError("odd")

        def get(self):
            raise KeyError("odd, too")

    p = pool(1)
    bad = Calls()
    p.add(Odd(), errbacks=bad)
    assert isinstance(bad.wait()[0][0], KeyError)
    wait_until(lambda: at_rest(p), DEADLINE)


def test_polling_backs_off(pool):
    """From 1 to 50 ms, while somebody waits and while nobody does."""
    p = pool(1)
    foreign = Foreign()
    p.add(foreign)
    waiter = Background(p.wait_for_result)
    time.sleep(0.6)
    looked = foreign.looked
    assert 5 <= looked <= 60
    foreign.finish()
    start = time.monotonic()
    assert waiter.result() == 1
    took(start, 1)


def test_many(pool, kind):
    make, finish, _ = kind
    p = pool(None, processes=1)
    foreign = [make() for _ in range(2000)]
    calls = Calls()
    for f in foreign:
        p.add(f, calls)
    for i, f in enumerate(foreign):
        finish(f, i)
    calls.wait(2000)
    assert sorted(calls.values) == list(range(2000))
