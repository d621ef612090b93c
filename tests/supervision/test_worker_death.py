"""A worker that dies fails its task by name; a new one takes its place; all others finish."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

import tasks
from celery_pool import PoolError, WorkerLostError
from guards import descendants, wait_until
from support import DEADLINE, Background, Calls, Recorder, at_rest, failure, is_gone, took


def replaced(p, old, count):
    """Waits until `count` workers are there, none of them in `old`."""
    wait_until(
        lambda: len(p.get_worker_pids()) == count and not set(p.get_worker_pids()) & set(old),
        DEADLINE,
        "replacement",
    )


def test_sigkill_of_a_busy_worker(pool, gate, start_method):
    p = pool(8, processes=2)
    good, bad = Calls(), Calls()
    victim = p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad, callbacks=good, meta="m")
    (pid,) = gate.await_tasks()
    others = [p.apply_async(tasks.same, (i,)) for i in range(7)]
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="SIGKILL") as caught:
        victim.get(DEADLINE)
    took(start, 5)
    error = caught.value
    assert isinstance(error, PoolError)
    assert (error.pid, error.exitcode, error.tid) == (pid, -signal.SIGKILL, victim.tid)
    assert str(pid) in str(error)
    assert bad.calls == [(error, "m")]
    assert not good.calls
    assert victim.worker_pid == pid
    assert [r.get(DEADLINE) for r in others] == list(range(7))
    replaced(p, [pid], 2)
    statistics = p.statistics()
    assert (statistics.lost, statistics.failed, statistics.succeeded) == (1, 1, 7)
    assert p.apply_async(tasks.same, (5,)).get(DEADLINE) == 5


def test_sigkill_of_the_only_worker_with_tasks_queued_behind(pool, gate, tmp_path):
    """Those behind had not started: they run, once, unseen by the user."""
    log = tmp_path / "log"
    p = pool(20, processes=1)
    victim = p.apply_async(tasks.pass_gate, (gate.path,))
    (pid,) = gate.await_tasks()
    behind = [p.apply_async(tasks.append, (str(log), str(i))) for i in range(19)]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        victim.get(DEADLINE)
    for r in behind:
        r.get(DEADLINE)
    assert list(map(int, log.read_text().split())) == list(range(19))


def test_sigkill_of_an_idle_worker(pool, start_method):
    p = pool(2)
    old = p.get_worker_pids()
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    replaced(p, old, 2)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    statistics = p.statistics()
    assert (statistics.lost, statistics.failed) == (0, 0)


def test_submitting_right_after_the_death_of_idle_workers(pool):
    """Whoever takes the task, dead or alive: it runs."""
    p = pool(4, processes=2)
    for _ in range(10):
        old = p.get_worker_pids()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        results = [p.apply_async(tasks.same, (i,)) for i in range(4)]
        assert [r.get(DEADLINE) for r in results] == [0, 1, 2, 3]
        replaced(p, old, 2)
    assert p.statistics().failed == 0


@pytest.mark.parametrize(
    ("target", "args", "exitcode", "text"),
    [
        (tasks.leave, (7,), 7, "exit code 7"),
        (tasks.leave, (0,), 0, "exit code 0"),
        (tasks.die, (), -signal.SIGKILL, "SIGKILL"),
        (tasks.die, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM"),
        (tasks.die, (signal.SIGSEGV,), -signal.SIGSEGV, "SIGSEGV"),
        (os.abort, (), -signal.SIGABRT, "SIGABRT"),
    ],
    ids=["exit 7", "exit 0", "SIGKILL", "SIGTERM", "SIGSEGV", "abort"],
)
def test_a_task_that_ends_its_worker(pool, target, args, exitcode, text):
    p = pool(1)
    old = p.get_worker_pids()
    r = p.apply_async(target, args)
    with pytest.raises(WorkerLostError, match=text) as caught:
        r.get(DEADLINE)
    assert (caught.value.pid, caught.value.exitcode) == (old[0], exitcode)
    replaced(p, old, 1)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_many_deaths_among_many_tasks(pool, mode):
    """Three of 200 tasks kill their worker: 197 finish, 3 fail, none is forgotten."""
    p = pool(50, processes=2, callbacks_in=mode)
    good, bad = Calls(), Calls()

    def submit():
        for i in range(200):
            target, args = (tasks.die, ()) if i in (20, 100, 199) else (tasks.same, (i,))
            p.apply_async(target, args, callbacks=good, errbacks=bad, meta=i)
        while p.wait_for_result():
            pass

    Background(submit).result(40)
    assert sorted(good.values) == [i for i in range(200) if i not in (20, 100, 199)]
    assert sorted(meta for _, meta in bad.calls) == [20, 100, 199]
    assert all(isinstance(exc, WorkerLostError) for exc in bad.values)
    assert p.statistics().lost == 3
    assert at_rest(p)


def test_killing_at_random_while_tasks_run(pool, tmp_path):
    """Every submission gets exactly one outcome; a body starts at most once."""
    log = tmp_path / "log"
    p = pool(40, processes=2)
    outcomes = Calls()
    stop = threading.Event()

    def kill():
        kills = 0
        while not stop.wait(0.05):
            for pid in p.get_worker_pids()[:1]:
                with contextlib.suppress(ProcessLookupError):  # gone by itself meanwhile
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
        return kills

    def submit():
        for i in range(4000):
            p.apply_async(
                tasks.append, (str(log), str(i)), callbacks=outcomes, errbacks=outcomes, meta=i
            )
            if i % 10 == 0:
                time.sleep(0.002)
        while p.wait_for_result():
            pass

    killer = Background(kill)
    Background(submit).result(40)
    stop.set()
    assert killer.result() > 5
    assert sorted(meta for _, meta in outcomes.calls) == list(range(4000))
    lost = [meta for value, meta in outcomes.calls if value is not None]
    assert all(isinstance(v, WorkerLostError) for v in outcomes.values if v is not None)
    started = list(map(int, log.read_text().split()))
    assert len(started) == len(set(started))
    assert set(range(4000)) - set(started) <= set(lost)
    assert p.statistics().lost == len(lost)
    wait_until(lambda: len(p.get_worker_pids()) == 2, DEADLINE)


def test_a_worker_that_dies_with_large_arguments_and_results(pool, gate):
    p = pool(6, processes=1)
    data = tasks.pattern(500_000)
    victim = p.apply_async(tasks.pass_gate, (gate.path, data))
    (pid,) = gate.await_tasks()
    behind = [p.apply_async(tasks.same, (data,)) for _ in range(5)]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        victim.get(DEADLINE)
    assert all(r.get(DEADLINE) == data for r in behind)


def test_results_published_before_the_death_count(pool):
    """Long results lie beside the ring of a worker that is gone."""
    p = pool(4, processes=1, callbacks_in="caller")
    good, bad = Calls(), Calls()
    for _ in range(3):
        p.apply_async(tasks.pattern, (300_000,), callbacks=good)
    p.apply_async(tasks.die, errbacks=bad)
    wait_until(lambda: p.statistics().waiting_callbacks == 4, DEADLINE)
    p.reap()
    assert good.values == [tasks.pattern(300_000)] * 3
    assert isinstance(bad.values[0], WorkerLostError)


def test_the_hooks_get_it(gate):
    p = Recorder(1, context="fork")
    with p:
        r = p.apply_async(tasks.die)
        r.wait(DEADLINE)
        info = p.returned[0][0]
        assert isinstance(failure(info), WorkerLostError)
        assert "SIGKILL" in info.traceback


def test_while_the_pool_closes(pool, gate):
    """The tasks behind still finish, on a replacement."""
    p = pool(5, processes=1)
    victim = p.apply_async(tasks.pass_gate, (gate.path,))
    behind = [p.apply_async(tasks.same, (i,)) for i in range(4)]
    (pid,) = gate.await_tasks()
    p.close()
    joiner = Background(p.join)
    os.kill(pid, signal.SIGKILL)
    assert joiner.result() is True
    assert [r.get(0) for r in behind] == [0, 1, 2, 3]
    with pytest.raises(WorkerLostError):
        victim.get(0)


def test_a_stopped_worker_is_not_a_dead_one(pool, gate):
    p = pool(2)
    r = p.apply_async(tasks.pass_gate, (gate.path, 1))
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGSTOP)
    gate.open()
    assert p.apply_async(tasks.same, (2,)).get(DEADLINE) == 2
    assert not r.ready()
    os.kill(pid, signal.SIGCONT)
    assert r.get(DEADLINE) == 1


def test_a_slow_callback_does_not_delay_the_replacement(pool):
    p = pool(2, processes=1, callbacks_in="reaper")
    entered, go_on = threading.Event(), threading.Event()

    def slow(value, meta):
        entered.set()
        assert go_on.wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=slow)
    assert entered.wait(DEADLINE)
    old = p.get_worker_pids()
    os.kill(old[0], signal.SIGKILL)
    replaced(p, old, 1)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    go_on.set()


def test_a_child_that_the_task_left_behind_does_not_hide_the_death(pool, gate, tmp_path):
    """It holds the worker's descriptors open."""
    p = pool(1)
    (worker,) = p.get_worker_pids()
    child = p.apply_async(tasks.fork_and_leave_a_child, (gate.path,)).get(DEADLINE)
    r = p.apply_async(tasks.die)
    start = time.monotonic()
    with pytest.raises(WorkerLostError):
        r.get(DEADLINE)
    took(start, 5)
    replaced(p, [worker], 1)
    gate.open()
    wait_until(lambda: is_gone(child), DEADLINE)


def test_a_forked_child_that_returns_into_the_loop(pool):
    p = pool(1)
    (worker,) = p.get_worker_pids()
    good = Calls()
    for _ in range(5):
        r = p.apply_async(tasks.fork_and_return, callbacks=good)
        assert r.get(DEADLINE) == (worker, worker)
    assert len(good) == 5
    assert p.get_worker_pids() == [worker]
    assert p.statistics().succeeded == 5


def test_somebody_elses_wait_does_not_disturb(pool):
    """An embedding program that waits for any child steals statuses."""
    p = pool(1)
    old = p.get_worker_pids()
    stop = threading.Event()

    def thief():
        while not stop.wait(0.001):
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                continue

    thread = Background(thief)
    r = p.apply_async(tasks.die)
    with pytest.raises(WorkerLostError):
        r.get(DEADLINE)
    replaced(p, old, 1)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    stop.set()
    thread.result()


def test_death_of_the_template(pool, gate, start_method):
    """The process that forks the workers: they go on, a new one starts the next."""
    p = pool(2)
    workers = p.get_worker_pids()
    running = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    parents = set()
    for pid in workers:
        with open(f"/proc/{pid}/stat") as stat:
            parents.add(int(stat.read().rpartition(")")[2].split()[1]))
    (template,) = parents - {os.getpid()}
    assert template in descendants()
    os.kill(template, signal.SIGKILL)
    gate.open()
    assert running.get(DEADLINE) == 1
    assert p.apply_async(tasks.same, (2,)).get(DEADLINE) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    replaced(p, workers, 2)
    assert p.apply_async(tasks.same, (3,)).get(DEADLINE) == 3


def test_the_initializer_runs_in_the_replacement(pool):
    p = pool(1, initializer=tasks.initialize, initargs=("again",))
    old = p.get_worker_pids()
    os.kill(old[0], signal.SIGKILL)
    assert p.apply_async(tasks.what_was_initialized).get(DEADLINE) == [("again",)]


def test_an_initializer_that_fails_in_the_replacement(pool, tmp_path):
    """It is tried again, without a storm, until it works."""
    flag = tmp_path / "flag"
    p = pool(1, initializer=tasks.initialize_once, initargs=(str(flag),))
    old = p.get_worker_pids()
    os.kill(old[0], signal.SIGKILL)
    r = p.apply_async(tasks.same, (1,))
    time.sleep(0.2)
    assert not r.ready()
    flag.unlink()
    assert r.get(DEADLINE) == 1
