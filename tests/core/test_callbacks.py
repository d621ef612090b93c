"""Callbacks: which run, where, in which order, never two at once, and what they may raise."""

from __future__ import annotations

import threading
import time

import pytest

import tasks
from celery_pool import TaskPool
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, Log, at_rest, collected

MODES = ["any", "reaper", "caller"]


@pytest.fixture
def excepthook(monkeypatch):
    """What reaches threading.excepthook."""
    seen = []
    monkeypatch.setattr(
        threading, "excepthook", lambda args: seen.append((args.exc_type, args.thread))
    )
    return seen


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


def reap_all(p: TaskPool) -> None:
    """Until nothing is pending; from callbacks_in="caller" on it needs a caller."""
    while p.wait_for_result():
        pass


def test_success_runs_every_callback_in_order(pool, mode):
    p = pool(2, callbacks_in=mode)
    order, bad = [], Calls()
    callbacks = [lambda value, meta, i=i: order.append((i, value, meta)) for i in range(3)]
    p.apply_async(tasks.same, (5,), callbacks=callbacks, errbacks=bad, meta="m").wait(DEADLINE)
    assert order == [(0, 5, "m"), (1, 5, "m"), (2, 5, "m")]
    assert not bad.calls


def test_failure_runs_every_errback_in_order(pool, mode):
    p = pool(2, callbacks_in=mode)
    order, good = [], Calls()
    errbacks = [lambda exc, meta, i=i: order.append((i, exc, meta)) for i in range(3)]
    r = p.apply_async(tasks.fail, (KeyError, "k"), callbacks=good, errbacks=errbacks, meta="m")
    r.wait(DEADLINE)
    assert [(i, type(exc), exc.args, meta) for i, exc, meta in order] == [
        (i, KeyError, ("k",), "m") for i in range(3)
    ]
    assert not good.calls


@pytest.mark.parametrize("kind", [list, tuple, iter, set], ids=lambda kind: kind.__name__)
def test_callbacks_may_be_any_iterable(pool, kind):
    p = pool(1)
    one, two = Calls(), Calls()
    p.apply_async(tasks.same, (1,), callbacks=kind([one, two])).get(DEADLINE)
    assert one.values == two.values == [1]


def test_a_list_of_callbacks_may_change_later(pool, tmp_path):
    gate, one, late = Gate(tmp_path), Calls(), Calls()
    given = [one]
    r = pool(1).apply_async(tasks.pass_gate, (gate.path, 1), callbacks=given)
    given[:] = [late]
    gate.open()
    r.get(DEADLINE)
    assert (one.values, late.values) == ([1], [])


# ---- where ----


def test_any_delivers_in_the_background(pool):
    p = pool(1)
    where = []
    p.apply_async(tasks.nothing, callbacks=lambda *_: where.append(threading.current_thread()))
    wait_until(lambda: where, DEADLINE)
    assert where[0] is not threading.current_thread()


def test_reaper_delivers_in_one_background_thread_only(pool):
    p = pool(4, processes=2, callbacks_in="reaper")
    where = set()
    results = [
        p.apply_async(tasks.nothing, callbacks=lambda *_: where.add(threading.get_ident()))
        for _ in range(300)
    ]
    p.wait_for_result()
    p.reap()
    for r in results:
        r.get(DEADLINE)
    p.close()
    assert p.join(DEADLINE)
    assert len(where) == 1
    assert threading.get_ident() not in where


def test_caller_delivers_nothing_in_the_background(pool, gate):
    p = pool(3, processes=2, callbacks_in="caller")
    calls = Calls()
    # none of them ends before all are submitted: a submission delivers what has ended
    results = [p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=calls) for i in range(3)]
    gate.open()
    collected(p, 3)
    assert not calls.calls
    assert not any(r.ready() for r in results)
    assert p.reap() == 3
    assert sorted(calls.values) == [0, 1, 2]
    assert all(r.ready() for r in results)


@pytest.mark.parametrize("call", ["apply_async", "add", "reap", "wait_for_result", "join"])
def test_caller_delivers_inside_the_documented_calls(pool, call):
    p = pool(1, callbacks_in="caller")
    where = []
    p.apply_async(tasks.nothing, callbacks=lambda *_: where.append(threading.get_ident()))
    collected(p, 1)
    if call == "apply_async":
        p.apply_async(tasks.nothing).wait(DEADLINE)
    elif call == "add":
        tid = p.add(Finished())
        p.on_return(None, tid, [], [], {})
    elif call == "join":
        p.close()
        assert p.join(DEADLINE)
    else:
        assert getattr(p, call)() == 1
    assert where == [threading.get_ident()]


class Finished:
    """A foreign result."""

    def ready(self):
        return True

    def get(self):
        return "foreign"


@pytest.mark.parametrize("call", ["get", "wait"])
def test_get_runs_its_own_callbacks_at_most(pool, gate, call):
    p = pool(3, processes=1, callbacks_in="caller")
    calls = Calls()
    results = [p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=calls) for i in range(3)]
    gate.open()
    getattr(results[1], call)(DEADLINE)
    assert calls.values == [1]
    assert [r.ready() for r in results] == [False, True, False]
    collected(p, 2)
    assert p.reap() == 2
    assert calls.values == [1, 0, 2]


def test_get_without_callbacks_needs_no_delivery(pool, mode):
    assert pool(1, callbacks_in=mode).apply_async(tasks.same, (3,)).get(DEADLINE) == 3


# ---- never two at once ----


def test_callbacks_never_run_concurrently(pool):
    p = pool(16, processes=2)
    inside, most, count = 0, 0, 0

    def callback(value, meta):
        nonlocal inside, most, count
        inside += 1
        most = max(most, inside)
        time.sleep(0)  # lets another thread in
        count += 1
        inside -= 1

    def submit():
        for i in range(300):
            r = p.apply_async(tasks.same, (i,), callbacks=callback)
            if i % 10 == 0:
                r.get(DEADLINE)

    def reap():
        while count < 900:
            p.reap(timeout=0.01)

    threads = [Background(submit) for _ in range(3)] + [Background(reap) for _ in range(2)]
    for thread in threads:
        thread.result(40)
    reap_all(p)
    assert (count, most) == (900, 1)


# ---- ready, get, wait ----


@pytest.mark.parametrize("mode", ["any", "reaper"])
def test_ready_only_after_the_own_callbacks_have_returned(pool, mode):
    p = pool(1, callbacks_in=mode)
    entered, go_on = threading.Event(), threading.Event()

    def slow(value, meta):
        entered.set()
        assert go_on.wait(DEADLINE)

    r = p.apply_async(tasks.same, (1,), callbacks=slow)
    assert entered.wait(DEADLINE)
    waiter = Background(r.get, DEADLINE)
    assert not r.ready()
    r.wait(0.05)
    assert not r.ready()
    with pytest.raises(ValueError, match="not ready"):
        r.successful()
    assert not waiter.done
    go_on.set()
    assert waiter.result() == 1
    assert r.ready()
    assert r.successful()


def test_a_slow_callback_of_another_job_does_not_hold_up_a_job_without(pool):
    p = pool(2, callbacks_in="reaper")
    entered, go_on = threading.Event(), threading.Event()

    def slow(value, meta):
        entered.set()
        assert go_on.wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=slow)
    assert entered.wait(DEADLINE)
    assert p.apply_async(tasks.same, (2,)).get(DEADLINE) == 2
    go_on.set()


def test_get_inside_callbacks(pool, mode):
    """Of another job, before and after it has ended, and of the own one."""
    p = pool(4, processes=2, callbacks_in=mode)
    seen = []
    own = []

    def callback(value, meta):
        seen.append(other.get(DEADLINE))
        seen.append(p.apply_async(tasks.same, ("late",), callbacks=calls).get(DEADLINE))
        seen.append((own[0].ready(), own[0].get(DEADLINE)))

    calls = Calls()
    other = p.apply_async(tasks.same, ("other",), callbacks=calls)
    gate_open = (
        p.apply_async(tasks.same, ("own",), callbacks=callback) if mode == "caller" else None
    )
    if gate_open is None:
        ready = threading.Event()

        def gated(value, meta):
            ready.wait(DEADLINE)
            callback(value, meta)

        gate_open = p.apply_async(tasks.same, ("own",), callbacks=gated)
        own.append(gate_open)
        ready.set()
    own.append(gate_open)
    Background(gate_open.wait, DEADLINE).result()
    assert seen == ["other", "late", (True, "own")]
    Background(reap_all, p).result()
    assert sorted(calls.values) == ["late", "other"]


def test_callbacks_may_call_everything(pool, mode):
    p = pool(4, processes=2, callbacks_in=mode)
    seen = {}

    def callback(value, meta):
        seen["full"] = p.full()
        seen["reap"] = p.reap()
        seen["wait_for_result"] = p.wait_for_result()
        seen["statistics"] = p.statistics().waiting_callbacks
        seen["pids"] = len(p.get_worker_pids())
        seen["tid"] = p.add(Finished(), callbacks=calls)

    calls = Calls()
    r = p.apply_async(tasks.nothing, callbacks=callback)
    Background(r.wait, DEADLINE).result()
    assert (seen["full"], seen["wait_for_result"], seen["statistics"]) == (False, 0, 1)
    assert seen["pids"] == 2
    Background(reap_all, p).result()
    assert calls.values == ["foreign"]
    assert p.statistics().callback_errors == 0


def test_callbacks_may_submit_while_the_pool_is_full(pool, mode):
    p = pool(2, callbacks_in=mode)
    done = []

    def callback(value, meta):
        done.append(value)
        for _ in range(2 if value < 6 else 0):
            p.apply_async(tasks.same, (value + 1,), callbacks=callback)

    p.apply_async(tasks.same, (0,), callbacks=callback)
    Background(reap_all, p).result()
    assert len(done) == 2**7 - 1
    assert at_rest(p)
    assert p.statistics().callback_errors == 0


def test_submitters_may_hold_a_lock_that_a_callback_takes(pool):
    p = pool(None, processes=2, callbacks_in="reaper")
    lock, count = threading.Lock(), 0

    def callback(value, meta):
        nonlocal count
        with lock:
            count += 1

    def submit():
        for i in range(1000):
            with lock:
                p.apply_async(tasks.same, (i,), callbacks=callback)
                if i % 100 == 0:
                    p.apply_async(tasks.same, (i,)).get(DEADLINE)

    Background(submit).result()
    wait_until(lambda: count == 1000, DEADLINE)


def test_a_lock_held_across_get_of_a_job_without_callbacks(pool):
    p = pool(64, processes=2, callbacks_in="reaper")
    lock = threading.Lock()

    def callback(value, meta):
        with lock:
            pass

    def submit():
        for _ in range(50):
            with lock:
                p.apply_async(tasks.nothing, callbacks=callback)
                p.apply_async(tasks.nothing).get(DEADLINE)

    Background(submit).result()


# ---- what they raise ----


def test_an_exception_is_logged_and_counted(pool, mode):
    log = Log()
    p = pool(2, callbacks_in=mode, logger=log.logger)
    assert p.logger is log.logger
    calls = Calls()

    def broken(value, meta):
        raise ZeroDivisionError("in the callback")

    r = p.apply_async(tasks.same, (1,), callbacks=[broken, calls, broken])
    assert r.get(DEADLINE) == 1
    p.apply_async(tasks.fail, (KeyError,), errbacks=[broken, calls]).wait(DEADLINE)
    assert len(calls) == 2
    assert p.statistics().callback_errors == 3
    assert log.kinds == [ZeroDivisionError] * 3
    assert all("broken" in message for message in log.messages)
    assert log.text.count("Traceback") == 3
    assert log.text.count("in the callback") == 6  # the source line, and the exception
    assert p.apply_async(tasks.same, (2,)).get(DEADLINE) == 2


def test_a_logger_set_later(pool):
    """`logger` is an attribute of the pool."""
    log = Log()
    p = pool(1)
    p.logger = log.logger
    p.apply_async(tasks.nothing, callbacks=lambda value, meta: 1 / 0).wait(DEADLINE)
    assert log.kinds == [ZeroDivisionError]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
class TestInterrupts:
    def submit(self, p, error, gate=None):
        """With a gate it ends when that is opened, else at once."""
        calls = Calls()

        def stop(value, meta):
            raise error("stop")

        target, args = (tasks.pass_gate, (gate.path, 1)) if gate else (tasks.same, (1,))
        return p.apply_async(target, args, callbacks=[stop, calls]), calls

    def test_caller(self, pool, gate, error):
        p = pool(2, processes=1, callbacks_in="caller")
        first, calls = self.submit(p, error, gate)
        second = p.apply_async(tasks.same, (2,), callbacks=calls)
        gate.open()
        collected(p, 2)
        with pytest.raises(error, match="stop"):
            p.reap()
        assert first.ready()
        assert calls.values[0] == 1
        p.reap()
        assert second.ready()
        assert calls.values == [1, 2]
        assert at_rest(p)
        assert p.statistics().callback_errors == 1

    @pytest.mark.parametrize("call", ["apply_async", "wait_for_result", "get", "join", "exit"])
    def test_each_call(self, pool, error, call):
        p = pool(1, callbacks_in="caller")
        first, calls = self.submit(p, error)
        collected(p, 1)
        with pytest.raises(error, match="stop"):
            if call == "apply_async":
                p.apply_async(tasks.nothing)
            elif call == "wait_for_result":
                p.wait_for_result()
            elif call == "get":
                first.get(DEADLINE)
            elif call == "join":
                p.close()
                p.join(DEADLINE)
            else:
                with p:
                    pass
        assert first.ready()
        assert calls.values == [1]
        assert at_rest(p)
        p.close()
        assert p.join(DEADLINE)

    @pytest.mark.parametrize("mode", ["any", "reaper"])
    def test_background(self, pool, error, mode, excepthook):
        p = pool(1, callbacks_in=mode)
        first, calls = self.submit(p, error)
        calls.wait()
        wait_until(lambda: excepthook, DEADLINE)
        assert excepthook[0][0] is error
        assert excepthook[0][1] is not threading.current_thread()
        assert first.get(DEADLINE) == 1
        p.apply_async(tasks.same, (2,), callbacks=calls)
        assert calls.wait(2)[1] == (2, {})
        assert len(excepthook) == 1

    def test_the_next_call_is_not_blamed(self, pool, error, excepthook):
        p = pool(4, processes=2)
        seen = 0
        results = []
        for _ in range(100):
            try:
                results.append(self.submit(p, error)[0])
            except error:
                seen += 1
        while not at_rest(p):
            try:
                p.wait_for_result()
            except error:
                seen += 1
        p.close()
        assert p.join(DEADLINE)
        assert seen + len(excepthook) == p.statistics().callback_errors
        assert p.statistics().submitted == p.statistics().succeeded
        assert all(r.ready() for r in results)


def test_on_ready_by_hand_raises_what_a_callback_does(pool):
    def stop(value, meta):
        raise SystemExit("stop")

    p = pool(1)
    calls = Calls()
    with pytest.raises(SystemExit, match="stop"):
        p.on_ready(1, [stop, calls], [], {})
    assert calls.values == [1]
    assert p.apply_async(tasks.same, (1,), callbacks=calls).get(DEADLINE) == 1


def test_on_ready_by_hand_waits_for_the_callback_that_runs(pool):
    """No two callbacks of a pool at once, whoever calls."""
    p = pool(1, callbacks_in="reaper")
    entered, go_on, calls = threading.Event(), threading.Event(), Calls()

    def slow(value, meta):
        entered.set()
        assert go_on.wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=slow)
    assert entered.wait(DEADLINE)
    by_hand = Background(p.on_ready, 1, [calls], [], {})
    time.sleep(0.05)
    concurrently = bool(calls.calls)
    go_on.set()
    by_hand.result()
    assert calls.values == [1]
    assert not concurrently


def test_garbage_in_callbacks_dies_with_the_job(pool):
    """A job that is done holds neither its callbacks nor its arguments."""
    import gc
    import weakref

    class Callback:
        def __call__(self, value, meta):
            pass

    p = pool(1)
    callback = Callback()
    ref = weakref.ref(callback)
    r = p.apply_async(tasks.nothing, callbacks=callback, errbacks=callback, on_acknowledge=None)
    r.get(DEADLINE)
    del callback
    gc.collect()
    assert ref() is None
