"""on_return and on_ready: overridden, and called by hand."""

from __future__ import annotations

import pytest

import tasks
from celery_pool import ExceptionInfo, TaskPool
from support import DEADLINE, Background, Calls, Log, Recorder, at_rest, failure


def drain(p: TaskPool) -> None:
    def body():
        while p.wait_for_result():
            pass

    Background(body).result()


def start(cls: type[TaskPool], limit: int = 2, **options: object) -> TaskPool:
    p = cls(limit, context="fork", **options)
    p.run()
    return p


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_both_are_called_for_every_task(mode):
    good, bad, meta = Calls(), Calls(), {"m": 1}
    with start(Recorder, callbacks_in=mode) as p:
        ok = p.apply_async(tasks.same, (1,), callbacks=[good], errbacks=bad, meta=meta)
        failing = p.apply_async(tasks.fail, (KeyError, "k"), callbacks=good, errbacks=[bad, bad])
        plain = p.apply_async(tasks.nothing)
        drain(p)
    returned = {call[1]: call for call in p.returned}
    assert returned[ok.tid] == (1, ok.tid, [good], [bad], meta)
    assert returned[ok.tid][4] is meta
    assert returned[plain.tid] == (None, plain.tid, [], [], {})
    info = returned[failing.tid][0]
    assert returned[failing.tid][1:] == (failing.tid, [good], [bad, bad], {})
    assert isinstance(info, ExceptionInfo)
    assert info.type is KeyError
    assert info.exception.args == ("k",)
    assert "Traceback" in info.traceback
    assert "tasks.py" in info.traceback
    assert len(p.readied) == 3
    assert good.calls == [(1, meta)]
    assert [type(e) for e in bad.values] == [KeyError, KeyError]
    assert at_rest(p)


def test_on_return_without_super_leaks_no_slot():
    class Silent(TaskPool):
        seen = 0

        def on_return(self, ret_val, tid, callbacks, errbacks, meta):
            self.seen += 1

    calls = Calls()
    with start(Silent) as p:

        def submit():
            for i in range(200):
                p.apply_async(tasks.same, (i,), callbacks=calls)

        Background(submit).result()
        drain(p)
        assert at_rest(p)
        assert p.seen == 200
    assert not calls.calls


def test_on_ready_without_super_leaks_no_slot():
    class Silent(TaskPool):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = []

        def on_ready(self, ret_value, callbacks, errbacks, meta):
            self.seen.append(ret_value)

    calls = Calls()
    with start(Silent) as p:
        Background(
            lambda: [p.apply_async(tasks.same, (i,), callbacks=calls) for i in range(200)]
        ).result()
        drain(p)
        assert at_rest(p)
        assert sorted(p.seen) == list(range(200))
    assert not calls.calls


def test_super_called_twice_runs_the_callbacks_once():
    class Twice(TaskPool):
        def on_return(self, *args):
            super().on_return(*args)
            super().on_return(*args)

    calls = Calls()
    with start(Twice) as p:
        p.apply_async(tasks.same, (1,), callbacks=calls).get(DEADLINE)
    assert calls.values == [1]


def test_an_override_may_change_what_the_callbacks_get():
    class Doubled(TaskPool):
        def on_return(self, ret_val, tid, callbacks, errbacks, meta):
            super().on_return(ret_val * 2, tid, callbacks, errbacks, {"tid": tid})

    calls = Calls()
    with start(Doubled) as p:
        r = p.apply_async(tasks.same, (4,), callbacks=calls)
        assert r.get(DEADLINE) == 4
    assert calls.calls == [(8, {"tid": r.tid})]


def test_an_override_that_raises():
    log = Log()

    class Broken(TaskPool):
        def on_return(self, ret_val, tid, callbacks, errbacks, meta):
            raise ZeroDivisionError("in on_return")

    with start(Broken, logger=log.logger) as p:
        for i in range(5):
            assert p.apply_async(tasks.same, (i,)).get(DEADLINE) == i
        drain(p)
        assert at_rest(p)
        assert p.statistics().callback_errors == 5
    assert log.kinds == [ZeroDivisionError] * 5


def test_an_override_that_exits():
    class Exits(TaskPool):
        def on_ready(self, ret_value, callbacks, errbacks, meta):
            raise SystemExit("in on_ready")

    with start(Exits, callbacks_in="caller") as p:
        r = p.apply_async(tasks.nothing)
        with pytest.raises(SystemExit, match="in on_ready"):
            p.wait_for_result()
        assert r.ready()
        assert at_rest(p)


def test_an_override_may_submit():
    class Chain(TaskPool):
        def on_ready(self, ret_value, callbacks, errbacks, meta):
            if ret_value < 50:
                self.apply_async(tasks.same, (ret_value + 1,))
            seen.append(ret_value)

    seen: list[int] = []
    with start(Chain, 1) as p:
        p.apply_async(tasks.same, (0,))
        drain(p)
    assert seen == list(range(51))


@pytest.mark.parametrize("name", ["on_return", "on_ready"])
def test_hooks_are_never_concurrent_and_see_all(name):
    inside = most = count = 0

    def hook(self, *args):
        nonlocal inside, most, count
        inside += 1
        most = max(most, inside)
        getattr(TaskPool, name)(self, *args)
        count += 1
        inside -= 1

    cls = type("Hooked", (TaskPool,), {name: hook})
    with start(cls, 8, processes=2) as p:
        threads = [
            Background(lambda: [p.apply_async(tasks.nothing) for _ in range(200)]) for _ in range(3)
        ]
        for thread in threads:
            thread.result()
        drain(p)
    assert (count, most) == (600, 1)


# ---- by hand ----


def test_on_return_of_an_unknown_tid_is_ignored(pool):
    p = pool(1)
    calls = Calls()
    for tid in (10**9, "nobody", None, -1, 0, (1, 2), 1.5):
        p.on_return(1, tid, [calls], [calls], {})
    done = p.apply_async(tasks.nothing)
    done.get(DEADLINE)
    p.on_return(1, done.tid, [calls], [calls], {})
    assert not calls.calls
    assert p.statistics().succeeded == 1
    assert at_rest(p)


@pytest.mark.parametrize("where", ["running", "at the worker", "backlog"])
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_on_return_of_a_task_in_flight(pool, gate, where, outcome):
    """Takes it out: it ends with the value given; what its worker makes of it is ignored."""
    big = b"x" * 200_000
    p = pool(10_000, processes=1)
    given, by_hand, errors = Calls(), Calls(), Calls()
    first = p.apply_async(tasks.pass_gate, (gate.path, 1), callbacks=given)
    gate.await_tasks()
    chosen = first
    if where == "at the worker":
        chosen = p.apply_async(tasks.digest, (big,), callbacks=given)
    elif where == "backlog":
        for _ in range(9_000):
            chosen = p.apply_async(tasks.nothing)
        chosen = p.apply_async(tasks.digest, (big,), callbacks=given)
    before = p.statistics()
    value = "value" if outcome == "success" else ExceptionInfo(ValueError("given"))
    p.on_return(value, chosen.tid, [by_hand], [errors], {"by": "hand"})
    assert p.statistics().in_flight == before.in_flight - 1
    assert chosen.ready()
    if outcome == "success":
        assert by_hand.calls == [("value", {"by": "hand"})]
        assert chosen.get(DEADLINE) == "value"
        assert chosen.successful()
    else:
        assert errors.calls == [(failure(value), {"by": "hand"})]
        with pytest.raises(ValueError, match="given"):
            chosen.get(DEADLINE)
        assert not chosen.successful()
    p.on_return("again", chosen.tid, [by_hand], [errors], {})
    assert len(by_hand) + len(errors) == 1
    gate.open()
    drain(p)
    assert given.values == ([] if chosen is first else [1])
    assert p.apply_async(tasks.same, (3,)).get(DEADLINE) == 3
    assert at_rest(p)


def test_on_return_frees_a_slot(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    submitter = Background(p.apply_async, tasks.same, (2,))
    p.on_return(None, r.tid, [], [], {})
    second = submitter.result()
    gate.open()
    assert second.get(DEADLINE) == 2


def test_on_return_by_hand_runs_the_overridden_on_ready(gate):
    with start(Recorder) as p:
        r = p.apply_async(tasks.pass_gate, (gate.path,))
        gate.await_tasks()
        p.on_return(5, r.tid, None, None, "m")
        gate.open()
        drain(p)
        assert p.readied == [(5, None, None, "m")]
        assert len(p.returned) == 1


def test_on_return_inside_a_callback_of_another_task(pool, gate):
    p = pool(2)
    seen = Calls()
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    p.apply_async(
        tasks.nothing, callbacks=lambda *_: p.on_return("in", r.tid, [seen], [], {})
    ).wait(DEADLINE)
    assert seen.values == ["in"]
    assert r.get(DEADLINE) == "in"
    gate.open()


def test_on_ready_by_hand(pool):
    p = pool(1)
    good, bad = Calls(), Calls()
    error = ValueError("v")
    p.on_ready(1, [good, good], [bad], None)
    p.on_ready(ExceptionInfo(error), [good], [bad, bad], "m")
    p.on_ready(2, None, None, None)
    p.on_ready(3, good, bad, {})
    assert good.calls == [(1, {}), (1, {}), (3, {})]
    assert bad.calls == [(error, "m")] * 2


def test_instances_work_without_any_override_too(pool):
    """Extra attributes and methods of a subclass cost nothing of the behaviour."""

    class Named(TaskPool):
        def __init__(self, name, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.name = name

    calls = Calls()
    with Named("n", 1, context="fork") as p:
        p.apply_async(tasks.same, (1,), callbacks=calls).get(DEADLINE)
        assert p.name == "n"
    assert calls.values == [1]
