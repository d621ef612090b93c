"""AsyncResult.cancel() and terminate(), and accept_callback."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

import limit_targets
import tasks
from celery_pool import (
    PoolError,
    TaskCancelled,
    TaskTerminated,
    WorkerLostError,
)
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, at_rest, collected, is_gone, took


def cancelled(r):
    with pytest.raises(TaskCancelled) as caught:
        r.get(DEADLINE)
    assert caught.value.tid == r.tid
    return caught.value


# ---- cancel ----


def test_cancel_a_task_that_waits_at_its_worker(pool, gate, tmp_path, start_method):
    log = str(tmp_path / "log")
    p = pool(4, processes=1)
    good, bad = Calls(), Calls()
    first = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    r = p.apply_async(tasks.append, (log, "x"), callbacks=good, errbacks=bad, meta="m")
    last = p.apply_async(tasks.same, (3,))
    assert r.cancel() is True
    error = cancelled(r)
    assert isinstance(error, PoolError)
    assert isinstance(error, concurrent.futures.CancelledError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert r.ready()
    assert not r.successful()
    assert r.worker_pid is None
    assert bad.calls == [(error, "m")]
    assert not good.calls
    gate.open()
    assert (first.get(DEADLINE), last.get(DEADLINE)) == (1, 3)
    assert not os.path.exists(log)
    statistics = p.statistics()
    assert (statistics.cancelled, statistics.failed, statistics.succeeded) == (1, 1, 2)


def test_cancel_frees_its_slot(pool, gate):
    p = pool(2, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    second = p.apply_async(tasks.nothing)
    gate.await_tasks()
    assert p.full()
    submitter = Background(p.apply_async, tasks.same, (3,))
    assert second.cancel()
    third = submitter.result()
    gate.open()
    first.get(DEADLINE)
    assert third.get(DEADLINE) == 3


def test_cancel_in_the_backlog(pool, gate):
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path, 0))
    gate.await_tasks()
    results = [p.apply_async(tasks.same, (i,)) for i in range(6000)]
    for r in (results[-1], results[5000], results[4999]):
        assert r.cancel() is True
        cancelled(r)
    gate.open()
    assert first.get(DEADLINE) == 0
    for i, r in enumerate(results):
        if i not in (5999, 5000, 4999):
            assert r.get(DEADLINE) == i


def test_cancel_a_running_task(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, 5))
    gate.await_tasks()
    assert r.cancel() is False
    gate.open()
    assert r.get(DEADLINE) == 5
    assert p.statistics().cancelled == 0


@pytest.mark.parametrize("target", [tasks.same, tasks.fail])
def test_cancel_a_task_that_is_done(pool, target):
    p = pool(1)
    r = p.apply_async(target, (ValueError,))
    r.wait(DEADLINE)
    assert r.cancel() is False
    assert r.cancel() is False
    assert p.statistics().cancelled == 0


def test_cancel_a_task_whose_callback_waits(pool):
    p = pool(2, callbacks_in="caller")
    calls = Calls()
    r = p.apply_async(tasks.same, (1,), callbacks=calls)
    collected(p, 1)
    assert r.cancel() is False
    p.reap()
    assert calls.values == [1]


def test_cancel_twice(pool, gate):
    p = pool(2, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    bad = Calls()
    r = p.apply_async(tasks.nothing, errbacks=bad)
    assert [r.cancel(), r.cancel()] == [True, False]
    wait_until(lambda: r.ready(), DEADLINE)
    assert r.cancel() is False
    assert len(bad) == 1
    assert p.statistics().cancelled == 1
    gate.open()


def test_cancel_from_a_callback(pool, gate, tmp_path):
    p = pool(None, processes=1)
    second = Gate(tmp_path, "second")
    first = p.apply_async(
        tasks.pass_gate, (gate.path,), callbacks=lambda *_: [r.cancel() for r in rest]
    )
    gate_task = p.apply_async(tasks.pass_gate, (second.path,))
    rest = [p.apply_async(tasks.same, (i,)) for i in range(10)]
    gate.open()
    first.get(DEADLINE)
    for r in rest:
        cancelled(r)
    second.open()
    gate_task.get(DEADLINE)


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_cancel_every_second_of_a_thousand(pool, gate, tmp_path, mode):
    log = str(tmp_path / "log")
    p = pool(None, processes=2, callbacks_in=mode)
    good, bad = Calls(), Calls()
    blockers = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(2)]
    gate.await_tasks(2)
    results = [
        p.apply_async(tasks.append, (log, str(i)), callbacks=good, errbacks=bad, meta=i)
        for i in range(1000)
    ]
    assert all(r.cancel() for r in results[::2])
    gate.open()
    for r in blockers:
        r.get(DEADLINE)
    p.close()
    assert p.join(DEADLINE)
    assert sorted(map(int, Path(log).read_text().split())) == list(range(1, 1000, 2))
    assert sorted(meta for _, meta in good.calls) == list(range(1, 1000, 2))
    assert sorted(meta for _, meta in bad.calls) == list(range(0, 1000, 2))
    assert {type(exc) for exc in bad.values} == {TaskCancelled}


def test_cancel_races_with_the_worker(pool, tmp_path):
    """True exactly for those that never ran."""
    log = str(tmp_path / "log")
    p = pool(None, processes=2)
    results = []
    answers = {}
    for i in range(3000):
        results.append(p.apply_async(tasks.append, (log, str(i))))
        if i >= 3:
            answers[i - 3] = results[i - 3].cancel()
    p.close()
    assert p.join(DEADLINE)
    ran = [int(line) for line in Path(log).read_text().split()]
    assert len(ran) == len(set(ran))
    for i, answer in answers.items():
        assert answer != (i in set(ran))
        assert answer != results[i].successful()
    assert 0 < p.statistics().cancelled < 3000


def test_cancelled_ones_make_room_for_those_behind(pool):
    """A whole ring of them: nobody has to wait or call for the rest to run."""
    p = pool(None, processes=1, callbacks_in="reaper")
    (pid,) = p.get_worker_pids()
    os.kill(pid, signal.SIGSTOP)
    calls = Calls()
    results = [p.apply_async(tasks.same, (i,), callbacks=calls) for i in range(9000)]
    assert all(r.cancel() for r in results[:6000])
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: p.statistics().in_flight == 0, DEADLINE, "the rest has run")
    calls.wait(3000)
    assert sorted(calls.values) == list(range(6000, 9000))


def test_cancel_after_the_end_of_the_pool(pool, gate):
    p = pool(2, processes=1)
    results = [p.apply_async(tasks.pass_gate, (gate.path,)) for _ in range(2)]
    p.terminate()
    assert [r.cancel() for r in results] == [False, False]
    assert [r.terminate() for r in results] == [False, False]


def test_cancel_while_the_pool_closes(pool, gate):
    p = pool(3, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    r = p.apply_async(tasks.nothing)
    p.close()
    assert r.cancel()
    gate.open()
    assert p.join(DEADLINE)


# ---- terminate ----


@pytest.mark.parametrize("kind", ["sleep", "c"])
def test_terminate_kills_exactly_the_running_task(pool, tmp_path, start_method, kind):
    p = pool(6, processes=2)
    mark = str(tmp_path / "mark")
    gate = Gate(tmp_path)
    good, bad = Calls(), Calls()
    other = p.apply_async(tasks.pass_gate, (gate.path, "other"))
    gate.await_tasks()
    r = p.apply_async(limit_targets.endless, (kind, mark), callbacks=good, errbacks=bad, meta="m")
    tasks.wait_for_file(mark)
    pid = int(Path(mark).read_text())
    behind = [p.apply_async(tasks.same, (i,)) for i in range(3)]
    start = time.monotonic()
    assert r.terminate() is True
    with pytest.raises(TaskTerminated, match="SIGTERM") as caught:
        r.get(DEADLINE)
    took(start, 2)
    error = caught.value
    assert isinstance(error, PoolError)
    assert (error.pid, error.signum, error.tid) == (pid, signal.SIGTERM, r.tid)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert bad.calls == [(error, "m")]
    assert not good.calls
    assert [b.get(DEADLINE) for b in behind] == [0, 1, 2]
    assert not other.ready()
    gate.open()
    assert other.get(DEADLINE) == "other"
    wait_until(lambda: is_gone(pid) and len(p.get_worker_pids()) == 2, DEADLINE)
    statistics = p.statistics()
    assert (statistics.failed, statistics.lost, statistics.succeeded) == (1, 0, 4)
    assert statistics.exits == {"terminated": 1}


def test_terminate_by_another_signal(pool, tmp_path):
    p = pool(1)
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark))
    tasks.wait_for_file(mark)
    assert r.terminate(signal.SIGKILL)
    with pytest.raises(TaskTerminated, match="SIGKILL") as caught:
        r.get(DEADLINE)
    assert caught.value.signum == signal.SIGKILL


def test_terminate_one_that_ignores_the_signal(pool, tmp_path):
    p = pool(1, kill_grace=0.3)
    (pid,) = p.get_worker_pids()
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark, True))
    tasks.wait_for_file(mark)
    assert r.terminate()
    with pytest.raises(TaskTerminated):
        r.get(DEADLINE)
    wait_until(lambda: is_gone(pid), DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize(("of_the_pool", "of_the_call"), [(600, 0.2), (0, 600)])
def test_terminate_with_a_grace_of_its_own(pool, tmp_path, of_the_pool, of_the_call):
    """The task's end is told soon in both cases; its worker has as long as the call says."""
    p = pool(1, processes=1, kill_grace=of_the_pool)
    (pid,) = p.get_worker_pids()
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark, True))  # ignores SIGTERM
    tasks.wait_for_file(mark)
    assert r.terminate(grace=of_the_call)
    with pytest.raises(TaskTerminated):
        r.get(DEADLINE)
    assert r.terminate(grace=0) is False  # it has its end
    if of_the_call < 1:
        wait_until(lambda: is_gone(pid), DEADLINE)
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    else:
        assert not is_gone(pid)
        p.terminate()  # waits for nobody's grace
        assert is_gone(pid)


def test_the_worker_dies_while_the_tasks_end_is_told(pool, tmp_path, monkeypatch):
    p = pool(1)
    (pid,) = p.get_worker_pids()
    made = TaskTerminated.__init__

    def slowly(self, *args, **kwargs):
        made(self, *args, **kwargs)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: p.statistics().exits, DEADLINE)  # it is dead, and its tasks recovered

    monkeypatch.setattr(TaskTerminated, "__init__", slowly)
    mark = str(tmp_path / "mark")
    bad = Calls()
    r = p.apply_async(limit_targets.endless, ("sleep", mark, True), errbacks=bad)
    tasks.wait_for_file(mark)
    assert r.terminate(grace=600)
    wait_until(lambda: r.ready(), DEADLINE)
    assert [type(error) for error, _ in bad.calls] == [TaskTerminated]


@pytest.mark.parametrize("grace", [-1, float("nan"), "1"])
def test_terminate_with_what_is_no_grace(pool, gate, grace):
    """Refused; the task goes on."""
    p = pool(1)
    running = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    with pytest.raises((ValueError, TypeError), match="grace|number"):
        running.terminate(grace=grace)
    gate.open()
    assert running.get(DEADLINE) == 1


@pytest.mark.parametrize("where", ["ring", "backlog"])
def test_terminate_a_queued_task(pool, gate, tmp_path, where):
    log = str(tmp_path / "log")
    p = pool(None, processes=1)
    (pid,) = p.get_worker_pids()
    first = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    for _ in range(0 if where == "ring" else 5000):
        p.apply_async(tasks.nothing)
    r = p.apply_async(tasks.append, (log, "x"))
    assert r.terminate() is True
    with pytest.raises(TaskTerminated) as caught:
        r.get(DEADLINE)
    assert (caught.value.pid, caught.value.tid) == (None, r.tid)
    gate.open()
    assert first.get(DEADLINE) == 1
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid
    assert not os.path.exists(log)


def test_terminate_a_task_that_is_done(pool):
    p = pool(1)
    (pid,) = p.get_worker_pids()
    r = p.apply_async(tasks.same, (1,))
    assert r.get(DEADLINE) == 1
    assert r.terminate() is False
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid
    assert r.get() == 1


def test_terminate_twice(pool, tmp_path):
    p = pool(1)
    mark = str(tmp_path / "mark")
    bad = Calls()
    r = p.apply_async(limit_targets.endless, ("sleep", mark), errbacks=bad)
    tasks.wait_for_file(mark)
    assert r.terminate() is True
    assert r.terminate() is False
    with pytest.raises(TaskTerminated):
        r.get(DEADLINE)
    assert r.terminate() is False
    assert len(bad) == 1
    assert p.statistics().exits == {"terminated": 1}


def test_terminate_from_a_callback(pool, tmp_path):
    p = pool(4, processes=2)
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark))
    tasks.wait_for_file(mark)
    p.apply_async(tasks.nothing, callbacks=lambda *_: r.terminate())
    with pytest.raises(TaskTerminated):
        r.get(DEADLINE)


@pytest.mark.parametrize("signum", [0, -1, 65, 1000, "SIGTERM", None, 1.5])
def test_terminate_by_what_is_no_signal(pool, gate, signum):
    """Refused; the task goes on."""
    p = pool(2, processes=1)
    running = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    queued = p.apply_async(tasks.same, (2,))
    for r in (running, queued):
        with pytest.raises((ValueError, TypeError)):
            r.terminate(signum)
    gate.open()
    assert (running.get(DEADLINE), queued.get(DEADLINE)) == (1, 2)


def test_terminate_races_with_the_end_of_the_task(pool):
    """True exactly for those that it ended; no other task is hit."""
    p = pool(None, processes=2)
    counts = {True: 0, False: 0}
    for i in range(150):
        r = p.apply_async(tasks.same, (i,))
        neighbour = p.apply_async(tasks.same, (-i,))
        end = time.perf_counter() + i * 4e-7
        while time.perf_counter() < end:
            pass
        answer = r.terminate()
        counts[answer] += 1
        r.wait(DEADLINE)
        assert answer == (not r.successful())
        if answer:
            with pytest.raises(TaskTerminated):
                r.get()
        assert neighbour.get(DEADLINE) == -i
    wait_until(lambda: at_rest(p), DEADLINE)
    statistics = p.statistics()
    assert statistics.failed == counts[True]
    assert statistics.lost == 0


# ---- accept_callback ----


def test_accept_callback(pool, gate, start_method):
    p = pool(2, processes=1)
    (pid,) = p.get_worker_pids()
    order = []
    before = time.monotonic()
    r = p.apply_async(
        tasks.pass_gate,
        (gate.path, 1),
        callbacks=lambda value, meta: order.append("callback"),
        on_acknowledge=lambda: order.append("acknowledge"),
        accept_callback=lambda *args: order.append(args),
    )
    gate.await_tasks()
    wait_until(lambda: len(order) == 2, DEADLINE, "accepted while it runs")
    after = time.monotonic()
    assert order[0] == "acknowledge"
    assert order[1][0] == pid == r.worker_pid
    assert before < order[1][1] < after
    gate.open()
    assert r.get(DEADLINE) == 1
    assert order[2:] == ["callback"]


def test_accept_callback_says_when_the_worker_took_it(pool, gate):
    """Not when it was submitted."""
    p = pool(2, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    accepted = Calls()
    r = p.apply_async(tasks.nothing, accept_callback=accepted)
    time.sleep(0.1)
    opened = time.monotonic()
    gate.open()
    r.get(DEADLINE)
    ((_, when),) = accepted.wait()
    assert opened < when < time.monotonic()


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_accepted_times_rise(pool, mode):
    p = pool(16, processes=1, callbacks_in=mode)
    accepted = Calls()
    for _ in range(500):
        p.apply_async(tasks.nothing, accept_callback=accepted)
    p.close()
    assert p.join(DEADLINE)
    times = [when for _, when in accepted.calls]
    assert len(times) == 500
    assert times == sorted(times)


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_accepted_when_the_worker_dies_right_after_the_claim(pool, mode):
    p = pool(2, processes=1, callbacks_in=mode)
    for _ in range(5):
        (pid,) = wait_until(p.get_worker_pids, DEADLINE)
        order = []
        before = time.monotonic()
        r = p.apply_async(
            tasks.die,
            errbacks=lambda exc, meta, order=order: order.append(type(exc)),
            on_acknowledge=lambda order=order: order.append("acknowledge"),
            accept_callback=lambda *args, order=order: order.append(args),
        )
        Background(r.wait, DEADLINE).result()
        assert order[0] == "acknowledge"
        assert order[1][0] == r.worker_pid
        assert before < order[1][1] < time.monotonic()
        assert order[2] is WorkerLostError
        wait_until(lambda pid=pid: p.get_worker_pids() not in ([], [pid]), DEADLINE)


def test_accepted_before_it_is_killed(pool, tmp_path):
    """By a time limit or by terminate(): accepted once, then the errback."""
    p = pool(2)
    for way in ("timeout", "terminate"):
        mark = str(tmp_path / way)
        order = []
        r = p.apply_async(
            limit_targets.endless,
            ("sleep", mark),
            errbacks=lambda exc, meta, order=order: order.append(type(exc).__name__),
            accept_callback=lambda pid, when, order=order: order.append("accepted"),
            timeout=0.1 if way == "timeout" else None,
        )
        if way == "terminate":
            tasks.wait_for_file(mark)
            r.terminate()
        Background(r.wait, DEADLINE).result()
        ended = "TimeLimitExceeded" if way == "timeout" else "TaskTerminated"
        assert order == ["accepted", ended]


def test_never_accepted_when_cancelled(pool, gate):
    p = pool(2, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    accepted = Calls()
    r = p.apply_async(tasks.nothing, accept_callback=accepted, on_acknowledge=accepted)
    assert r.cancel()
    gate.open()
    p.close()
    assert p.join(DEADLINE)
    assert not accepted.calls


def test_accept_callback_must_be_callable(pool):
    p = pool(1)
    with pytest.raises(TypeError, match="accept_callback"):
        p.apply_async(tasks.nothing, accept_callback=5)
    assert p.statistics().submitted == 0
