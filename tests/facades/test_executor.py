"""TaskPoolExecutor: what it promises beyond the standard library's tests."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import os
import signal
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from concurrent.futures.process import BrokenProcessPool

import pytest

import tasks
from celery_pool import (
    PayloadTooLarge,
    SoftTimeLimitExceeded,
    StartError,
    TaskFuture,
    TaskPoolExecutor,
    TaskTerminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from executors import pids_of
from guards import wait_until
from support import CANNOT_PICKLE, DEADLINE, Background, Calls, Gate, is_gone, stays

# ---- futures ----


def test_futures_are_the_standard_librarys(executor, start_method):
    one = executor()
    future = one.submit(tasks.echo, 1, self=2, fn=3)
    assert isinstance(future, Future) and isinstance(future, TaskFuture)
    assert future.result(DEADLINE) == ((1,), {"self": 2, "fn": 3})
    assert future.done() and not future.running() and not future.cancelled()
    assert future.exception() is None
    assert "state=finished returned tuple" in repr(future)


def test_a_task_runs_once_a_worker_has_claimed_it(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    running, waiting = (one.submit(tasks.pass_gate, gate.path, i) for i in range(2))
    gate.await_tasks()
    assert running.running() and "state=running" in repr(running)
    assert not waiting.running() and "state=pending" in repr(waiting)
    assert not running.cancel() and not running.cancelled() and not running.done()
    assert waiting.cancel() and waiting.cancel() and waiting.cancelled() and waiting.done()
    with pytest.raises(CancelledError):
        waiting.result()
    gate.open()
    assert running.result(DEADLINE) == 0
    assert not running.cancel()
    with pytest.raises(concurrent.futures.TimeoutError):
        one.submit(time.sleep, 0.5).result(timeout=0.01)


def test_a_cancelled_future_is_told_to_all_who_wait(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    first = one.submit(tasks.pass_gate, gate.path)
    gate.await_tasks()
    future = one.submit(tasks.nothing)
    called = Calls()
    future.add_done_callback(called)
    waiters = [
        Background(future.exception, DEADLINE),
        Background(wait, [future, first], DEADLINE, FIRST_COMPLETED),
        Background(lambda: next(as_completed([future, first], DEADLINE))),
    ]
    wait_until(lambda: len(future._waiters) == 2, DEADLINE, "the waiters")
    assert future.cancel()
    assert called.calls == [(future,)]
    with pytest.raises(CancelledError):
        waiters[0].result()
    assert waiters[1].result() == ({future}, {first})
    assert waiters[2].result() is future
    gate.open()


@pytest.mark.parametrize("looked_at", [False, True])
def test_waiters_meet_futures_that_end_meanwhile(executor, looked_at):
    """The end of a future and the first look at it, at the same moment, many times."""
    one = executor()
    for _ in range(300):
        futures = [one.submit(tasks.same, i) for i in range(8)]
        if looked_at:
            for future in futures[::2]:
                future.add_done_callback(tasks.nothing)
        done, left = wait(futures, DEADLINE)
        assert not left and all(future.done() for future in done)
        assert sorted(future.result() for future in done) == list(range(8))
        futures = [one.submit(tasks.same, i) for i in range(8)]
        assert {future.result() for future in as_completed(futures, DEADLINE)} == set(range(8))


def test_every_future_ran_once_or_was_cancelled(executor, tmp_path):
    one = executor()
    path = tmp_path / "ran"
    path.touch()
    futures = [one.submit(tasks.append, str(path), str(i)) for i in range(3000)]
    threads = [Background(lambda part: [f.cancel() for f in part], futures[i::3]) for i in range(3)]
    answers = dict(zip(itertools.chain(*(futures[i::3] for i in range(3))),
                       itertools.chain(*(t.result() for t in threads)), strict=True))  # fmt: skip
    wait(futures, DEADLINE)
    ran = path.read_text().split()
    assert len(ran) == len(set(ran))
    for i, future in enumerate(futures):
        assert future.cancelled() == answers[future] == (str(i) not in ran)
        assert future._state in ("CANCELLED_AND_NOTIFIED", "FINISHED")


def test_callbacks_run_once_also_when_added_late(executor):
    one = executor()
    called = Calls()
    futures = []
    for i in range(500):
        future = one.submit(tasks.same, i)
        future.add_done_callback(called)
        futures.append(future)
    for future in futures:
        future.add_done_callback(called)
    called.wait(1000)
    one.shutdown()
    assert len(called) == 1000
    assert sorted(f.result() for (f,) in called.calls) == sorted(list(range(500)) * 2)


def test_callbacks_run_in_one_background_thread_and_may_submit(executor):
    one = executor(limit=2)
    threads, results = [], []

    def again(future):
        threads.append(threading.get_ident())
        results.append(future.result())
        if len(results) < 50:
            one.submit(tasks.same, len(results)).add_done_callback(again)

    one.submit(tasks.same, 0).add_done_callback(again)
    wait_until(lambda: len(results) == 50, DEADLINE, "50 results")
    assert results == list(range(50))
    # a future that is done when the callback is added calls it at once
    assert len(set(threads)) == 1 and threads[0] != threading.get_ident()


def test_submitting_under_a_lock_that_a_callback_takes(executor):
    one = executor()
    lock = threading.Lock()
    called = Calls()

    def callback(future):
        with lock:
            called(future)

    def submit():  # a future that is done already calls back here: so not under the lock
        for i in range(2000):
            with lock:
                future = one.submit(tasks.same, i)
            future.add_done_callback(callback)

    Background(submit).result()
    called.wait(2000)


def test_what_a_callback_raises_is_logged(executor, caplog):
    one = executor()
    called = Calls()

    def fails(future):
        raise ValueError("in a callback")

    future = one.submit(time.sleep, 0.05)
    future.add_done_callback(fails)
    future.add_done_callback(called)
    called.wait()
    assert "in a callback" in caplog.text
    assert one.submit(tasks.same, 2).result(DEADLINE) == 2


def test_finished_futures_keep_nothing_alive(executor):
    one = executor()
    future = one.submit(tasks.Point, 1)
    result = weakref.ref(future.result(DEADLINE))
    dropped = weakref.ref(future)
    gc.disable()
    try:
        del future
        wait_until(lambda: dropped() is None and result() is None, DEADLINE, "no reference left")
    finally:
        gc.enable()


def test_an_error_holds_no_cycle_with_its_future(executor):
    one = executor()
    future = one.submit(tasks.fail, ValueError, "x")
    dropped = weakref.ref(future)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="x") as info:
            future.result(DEADLINE)
        del info, future
        wait_until(lambda: dropped() is None, DEADLINE, "no reference left")
    finally:
        gc.enable()


@pytest.mark.parametrize("argument", [tasks.RaisesWhenPickled(ValueError), threading.Lock()])
def test_a_task_that_cannot_be_pickled_leaves_no_cycle(argument):
    def submit():
        one = TaskPoolExecutor(1, "fork")
        error = one.submit(tasks.same, argument).exception()
        assert isinstance(error, (ValueError, TypeError))
        assert "pickl" in str(error.__cause__)
        one.shutdown()
        return weakref.ref(one)

    gc.collect()
    gc.disable()
    try:
        assert submit()() is None
    finally:
        gc.enable()


# ---- errors ----


def test_errors_of_arguments_are_the_futures(executor):
    one = executor(max_bytes=1000)
    with pytest.raises(CANNOT_PICKLE):
        one.submit(lambda: None).result(DEADLINE)
    with pytest.raises(TypeError):
        one.submit(None).result(DEADLINE)
    with pytest.raises(PayloadTooLarge):
        one.submit(tasks.same, bytes(2000)).result(DEADLINE)
    with pytest.raises(TypeError):
        one.submit(fn=tasks.same)
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


def test_an_exit_while_arguments_are_pickled_is_the_futures(executor):
    one = executor()
    future = one.submit(tasks.same, tasks.raises_when_pickled(SystemExit))
    with pytest.raises(SystemExit):
        future.result(DEADLINE)
    assert type(future.exception()) is SystemExit
    with pytest.raises(KeyboardInterrupt):  # may be the user's
        one.submit(tasks.same, tasks.raises_when_pickled(KeyboardInterrupt))
    for chunksize in 1, 2:
        results = one.map(
            tasks.same, [tasks.raises_when_pickled(SystemExit), 1, 2, 3], chunksize=chunksize
        )
        with pytest.raises(SystemExit):
            next(results)
        assert list(results) == [1, 2, 3][chunksize - 1 :]
    with pytest.raises(KeyboardInterrupt):
        one.map(tasks.same, [1, tasks.raises_when_pickled(KeyboardInterrupt)])
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


def test_an_exit_by_a_signal_handler_leaves_submit(executor, tmp_path, monkeypatch):
    gate = Gate(tmp_path)
    one = executor(1, limit=1)
    one.submit(tasks.pass_gate, gate.path)

    def leave(signum, frame):
        raise SystemExit(7)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(SystemExit):
            one.submit(tasks.same, 1)  # waits for a slot
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    gate.open()


@pytest.mark.parametrize(
    "options, error",
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"max_workers": 2, "limit": 1}, ValueError),
        ({"initializer": 1}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": "1"}, TypeError),
        ({"timeout": -1}, ValueError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error):
        TaskPoolExecutor(**options)


def test_a_killed_worker_costs_one_future(executor, tmp_path, start_method):
    gate = Gate(tmp_path)
    one = executor()
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(20)]
    pid = gate.await_tasks(2)[0]
    victim = next(f for f in futures if f.running() and f._job.worker_pid == pid)
    os.kill(pid, signal.SIGKILL)
    error = victim.exception(DEADLINE)
    assert isinstance(error, WorkerLostError) and not isinstance(error, BrokenProcessPool)
    assert (error.pid, error.exitcode) == (pid, -signal.SIGKILL)
    gate.open()
    assert [f.result(DEADLINE) for f in futures if f is not victim] == [
        i for i, f in enumerate(futures) if f is not victim
    ]
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


def test_lost_breaks_pool(executor, tmp_path, start_method):
    gate = Gate(tmp_path)
    one = executor(lost_breaks_pool=True)
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(20)]
    pids = gate.await_tasks(2)
    os.kill(pids[0], signal.SIGKILL)
    errors = [f.exception(DEADLINE) for f in futures]
    assert {type(error) for error in errors} == {BrokenProcessPool}
    assert sum(isinstance(error.__cause__, WorkerLostError) for error in errors) == 1
    with pytest.raises(BrokenProcessPool):
        one.submit(tasks.nothing)
    for pid in pids:
        wait_until(lambda: is_gone(pid), DEADLINE, "the end of the workers")


def test_lost_breaks_pool_also_when_idle(executor):
    one = executor(lost_breaks_pool=True)
    one.submit(tasks.nothing).result(DEADLINE)
    wait_until(lambda: len(pids_of(one)) == 2, DEADLINE, "two workers")
    os.kill(pids_of(one)[0], signal.SIGKILL)
    wait_until(lambda: one._broken, DEADLINE, "the executor to break")
    with pytest.raises(BrokenProcessPool):
        one.submit(tasks.nothing)


def test_kill_and_limits_do_not_break_the_pool(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(lost_breaks_pool=True, timeout=0.5)
    future = one.submit(tasks.pass_gate, gate.path)
    gate.await_tasks()
    assert one.kill(future)
    assert isinstance(future.exception(DEADLINE), TaskTerminated)
    assert isinstance(one.submit(time.sleep, 60).exception(DEADLINE), TimeLimitExceeded)
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


def test_an_error_that_a_task_raises_is_never_taken_for_the_executors(executor):
    one = executor(lost_breaks_pool=True)
    error = one.submit(tasks.fail, WorkerLostError, 1, 2).exception(DEADLINE)
    assert isinstance(error, WorkerLostError)
    error = one.submit(tasks.fail, CancelledError).exception(DEADLINE)
    assert isinstance(error, CancelledError)
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


def test_an_initializer_that_fails(executor, start_method, caplog):
    one = executor(initializer=tasks.fail, initargs=(ValueError, "not today"))
    with pytest.raises(BrokenProcessPool, match="not today") as info:
        one.submit(tasks.nothing).result(DEADLINE)
    assert isinstance(info.value.__cause__, StartError)
    assert isinstance(info.value.__cause__.cause, ValueError)
    with pytest.raises(BrokenProcessPool, match="not today"):
        one.submit(tasks.nothing)
    assert not pids_of(one)


def test_the_initializer_runs_before_the_first_task(executor, start_method):
    one = executor(1, initializer=tasks.initialize, initargs=(1, 2))
    assert one.submit(tasks.what_was_initialized).result(DEADLINE) == [(1, 2)]


def test_workers_that_cannot_be_started(executor, monkeypatch):
    one = executor()
    context = type(one._mp_context)

    def no_process(*args, **kwargs):
        raise BlockingIOError("no process to be had")

    monkeypatch.setattr(context, "Process", no_process)
    with pytest.raises(BrokenProcessPool, match="no process to be had"):
        one.submit(tasks.nothing)
    monkeypatch.undo()
    with pytest.raises(BrokenProcessPool):
        one.submit(tasks.nothing)
    one.shutdown()


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_threads_that_cannot_be_started(executor, monkeypatch, allowed):
    start = threading.Thread.start
    count = itertools.count()

    def limited(thread):
        if next(count) >= allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    one = executor()
    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(BrokenProcessPool, match="can't start new thread"):
        one.submit(tasks.nothing)
    monkeypatch.undo()
    one.shutdown()


# ---- limits ----


def test_submit_does_not_wait_for_the_workers(executor, tmp_path, start_method):
    gate = Gate(tmp_path)
    one = executor(initializer=tasks.initialize_slowly, initargs=(gate.path,))
    futures = [Background(one.submit, tasks.same, i).result() for i in range(10)]
    assert stays(lambda: not any(f.done() or f.running() for f in futures), 0.1)
    assert futures[3].cancel()
    gate.open()
    assert [f.result(DEADLINE) for f in futures if not f.cancelled()] == [0, 1, 2, *range(4, 10)]


def test_limit_makes_submit_wait(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(limit=3)
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(3)]
    fourth = Background(one.submit, tasks.same, 3)
    assert stays(lambda: not fourth.done)
    gate.open()
    assert [f.result(DEADLINE) for f in [*futures, fourth.result()]] == [0, 1, 2, 3]


def test_a_submitter_that_waits_is_refused_at_shutdown(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(limit=2)
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(2)]
    third = Background(one.submit, tasks.same, 3)
    assert stays(lambda: not third.done, 0.05)
    one.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        third.result()
    gate.open()
    assert [f.result(DEADLINE) for f in futures] == [0, 1]


def test_max_bytes_makes_submit_wait(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(max_bytes=3000)
    first = one.submit(tasks.pass_gate, gate.path, bytes(2000))
    second = Background(one.submit, tasks.same, bytes(2000))
    assert stays(lambda: not second.done)
    gate.open()
    assert first.result(DEADLINE) == second.result().result(DEADLINE) == bytes(2000)


def test_time_limits(executor):
    one = executor(soft_timeout=0.2, timeout=0.6)
    assert isinstance(one.submit(time.sleep, 60).exception(DEADLINE), SoftTimeLimitExceeded)
    assert isinstance(one.submit(sleep_on).exception(DEADLINE), TimeLimitExceeded)


def sleep_on():
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            time.sleep(60)


def test_max_tasks_per_child(executor, start_method):
    one = executor(1, max_tasks_per_child=3)
    pids = [one.submit(tasks.pid).result(DEADLINE) for _ in range(9)]
    assert [len(set(pids[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3


# ---- kill ----


def test_kill(executor, tmp_path, start_method):
    gate = Gate(tmp_path)
    one = executor()
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(5)]
    gate.await_tasks(2)
    victim = next(f for f in futures if f.running())
    waiting = next(f for f in futures if not f.running())
    assert not one.kill(waiting) and not waiting.done()
    assert one.kill(victim)
    error = victim.exception(DEADLINE)
    assert isinstance(error, TaskTerminated) and error.signum == signal.SIGTERM
    assert not one.kill(victim)
    gate.open()
    for i, future in enumerate(futures):
        if future is not victim:
            assert future.result(DEADLINE) == i
    with pytest.raises(TypeError):
        one.kill(Future())


def ignore_sigterm_and_pass(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tasks.pass_gate(path)


def test_kill_ends_also_who_ignores_sigterm(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor()
    future = one.submit(ignore_sigterm_and_pass, gate.path)
    gate.await_tasks()
    assert one.kill(future)
    assert isinstance(future.exception(DEADLINE), TaskTerminated)


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_force(executor, tmp_path, how):
    gate = Gate(tmp_path)
    one = executor()
    done = one.submit(tasks.same, 1)
    assert done.result(DEADLINE) == 1
    futures = [one.submit(tasks.pass_gate, gate.path) for _ in range(6)]
    pids = gate.await_tasks(2)
    running = [f for f in futures if f.running()]
    assert len(running) == 2
    getattr(one, how)()
    for future in futures:
        if future in running:
            assert isinstance(future.exception(DEADLINE), BrokenProcessPool)
        else:
            assert future.cancelled()
    with pytest.raises(RuntimeError):
        one.submit(tasks.nothing)
    for pid in pids:
        wait_until(lambda: is_gone(pid), DEADLINE, "the end of the workers")
    getattr(one, how)()
    one.shutdown()


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_force_before_anything_was_submitted(executor, how):
    one = executor()
    getattr(one, how)()
    with pytest.raises(RuntimeError):
        one.submit(tasks.nothing)
