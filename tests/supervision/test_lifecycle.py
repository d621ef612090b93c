"""run, close, join, terminate, the with statement, dropped pools, the interpreter's end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings

import pytest

import tasks
from celery_pool import (
    PoolClosed,
    PoolError,
    PoolNotRunning,
    PoolRunning,
    PoolTerminated,
    StartError,
    Statistics,
    TaskPool,
)
from guards import wait_until
from support import DEADLINE, Background, Calls, Log, at_rest, is_gone, run_script, stays, took

COUNTS = (
    "submitted",
    "succeeded",
    "failed",
    "lost",
    "in_flight",
    "waiting_callbacks",
    "callback_errors",
    "workers",
)


def gone(pids):
    pids = list(pids)
    wait_until(lambda: all(map(is_gone, pids)), DEADLINE, f"end of {pids}")


# ---- run ----


def test_run_returns_when_all_initializers_have(start_method, gate):
    p = TaskPool(
        2, context=start_method, initializer=tasks.initialize_slowly, initargs=(gate.path,)
    )
    runner = Background(p.run)
    gate.await_tasks(2)
    assert not runner.done
    with pytest.raises(PoolError):
        p.apply_async(tasks.nothing)
    gate.open()
    runner.result()
    assert len(p.get_worker_pids()) == 2
    p.terminate()


def test_initializer_runs_once_in_each_worker(pool, start_method):
    p = pool(2, initializer=tasks.initialize, initargs=["a", 1])
    for _ in range(10):
        assert p.apply_async(tasks.what_was_initialized).get(DEADLINE) == [("a", 1)]


@pytest.mark.parametrize("message", ["short", "x" * 300_000], ids=["short", "long"])
def test_initializer_error_is_raised_by_run(start_method, tmp_path, message):
    log = tmp_path / "log"
    p = TaskPool(
        2, context=start_method, initializer=tasks.initialize_with, initargs=(str(log), message)
    )
    runner = Background(p.run)
    with pytest.raises(ValueError, match=message) as caught:
        runner.result()
    assert "initialize_with" in str(caught.value.__cause__)
    gone(map(int, log.read_text().split()))
    assert p.get_worker_pids() == []
    with pytest.raises(PoolNotRunning):
        p.apply_async(tasks.nothing)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, tasks.Stubborn])
def test_initializer_raises_something_odd(kind):
    p = TaskPool(1, context="fork", initializer=tasks.fail, initargs=(kind, "odd"))
    runner = Background(p.run)
    with pytest.raises(kind if kind is not tasks.Stubborn else PoolError, match="odd"):
        runner.result()


def test_one_failed_initializer_is_enough(tmp_path):
    p = TaskPool(
        2, context="fork", initializer=tasks.initialize_once, initargs=(str(tmp_path / "x"),)
    )
    with pytest.raises(ValueError, match="one too many"):
        Background(p.run).result()
    assert p.get_worker_pids() == []


def test_a_pool_that_failed_to_start_may_be_run_again(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    p = TaskPool(1, context="fork", initializer=tasks.initialize_once, initargs=(str(flag),))
    with pytest.raises(ValueError, match="one too many"):
        p.run()
    flag.unlink()
    p.run()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    p.terminate()


def test_an_initializer_that_ends_its_process():
    for ending, args in ((os._exit, (3,)), (tasks.die, ())):
        p = TaskPool(1, context="fork", initializer=ending, initargs=args)
        with pytest.raises(StartError, match="exit code 3|SIGKILL"):
            Background(p.run).result()


def test_start_timeout(gate, start_method):
    p = TaskPool(
        2,
        context=start_method,
        start_timeout=1.0,
        initializer=tasks.initialize_slowly,
        initargs=(gate.path,),
    )
    start = time.monotonic()
    with pytest.raises(StartError, match="start_timeout"):
        Background(p.run).result()
    assert took(start, 10) >= 1.0
    gone(gate.waiting())
    assert p.get_worker_pids() == []


@pytest.mark.parametrize("bad", ["initializer", "initargs"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_cannot_be_sent_raises_in_run(method, bad):
    options = (
        {"initializer": lambda: None}
        if bad == "initializer"
        else {"initializer": tasks.initialize, "initargs": (lambda: None,)}
    )
    p = TaskPool(1, context=method, **options)
    with pytest.raises((AttributeError, TypeError, Exception), match="pickle|local object"):
        Background(p.run).result()
    assert p.get_worker_pids() == []


def test_run_twice(pool):
    p = pool(1)
    workers = p.get_worker_pids()
    with pytest.raises(PoolRunning):
        p.run()
    p.close()
    with pytest.raises(PoolRunning):
        p.run()  # not before join()
    assert p.join(DEADLINE)
    assert isinstance(PoolRunning(), PoolError)
    gone(workers)


def test_run_by_two_threads_at_once():
    p = TaskPool(1, context="fork")
    runners = [Background(p.run) for _ in range(3)]
    outcomes = []
    for runner in runners:
        try:
            runner.result()
            outcomes.append("ran")
        except PoolRunning:
            outcomes.append("refused")
    assert sorted(outcomes) == ["ran", "refused", "refused"]
    assert len(p.get_worker_pids()) == 1
    p.terminate()


@pytest.mark.parametrize("end", ["terminate", "close"])
def test_run_afresh(pool, start_method, end):
    p = pool(2, processes=1)
    tids, pids = set(), set()
    for i in range(3):
        results = [p.apply_async(tasks.same, (j,)) for j in range(5)]
        assert [r.get(DEADLINE) for r in results] == list(range(5))
        tids |= {r.tid for r in results}
        pids |= set(p.get_worker_pids())
        assert p.statistics().submitted == 5
        getattr(p, end)()
        assert p.join(DEADLINE)
        gone(pids)
        if i < 2:
            p.run()
    assert len(tids) == 15
    assert len(pids) == 3


def test_run_afresh_from_an_errback(pool, gate):
    """The supervisor of an embedding program may restart its pool when told of the end."""
    p = pool(1, callbacks_in="caller")
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    p.terminate()
    p.run()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("as_context", [False, True])
def test_context(start_method, as_context):
    context = multiprocessing.get_context(start_method) if as_context else start_method
    with TaskPool(1, context=context) as p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_default_context():
    with TaskPool(1) as p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_workers_have_few_descriptors(pool, start_method):
    """Nothing that a task could leak or use by mistake: no sockets, no other worker's segment."""
    p = pool(3)
    with open(__file__):
        found = p.apply_async(tasks.descriptors).get(DEADLINE)
    assert len([name for name in found if "memfd:" in name]) == 3  # two segments, its stacks
    assert not [name for name in found if name == __file__ and start_method != "fork"]


# ---- before and after ----


class Done:
    def ready(self):
        return True

    def get(self):
        return None


@pytest.mark.parametrize("call", [lambda p: p.apply_async(tasks.nothing), lambda p: p.add(Done())])
def test_submitting_needs_a_running_pool(call):
    p = TaskPool(1, context="fork")
    with pytest.raises(PoolNotRunning):
        call(p)
    p.run()
    p.close()
    with pytest.raises(PoolClosed):
        call(p)
    p.join()
    with pytest.raises(PoolClosed):
        call(p)
    p.run()
    p.terminate()
    with pytest.raises(PoolTerminated):
        call(p)


def test_the_rest_of_a_pool_that_never_ran():
    p = TaskPool(2, context="fork")
    assert p.full() is False
    assert p.reap() == 0
    assert p.wait_for_result() == 0
    assert p.get_worker_pids() == []
    assert not any(getattr(p.statistics(), name) for name in COUNTS)
    p.close()
    assert p.join() is True
    p.terminate()
    assert "TaskPool" in repr(p)


def test_a_pool_that_never_ran_leaves_nothing():
    TaskPool(2, context="fork")
    gc.collect()


# ---- close and join ----


def test_close_lets_tasks_finish(pool, gate, start_method):
    p = pool(6, processes=2)
    calls = Calls()
    results = [p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=calls) for i in range(6)]
    workers = p.get_worker_pids()
    p.close()
    p.close()
    assert p.join(timeout=0.05) is False
    assert p.join(timeout=0) is False
    gate.open()
    assert p.join(timeout=DEADLINE) is True
    assert p.join() is True
    assert [r.get(0) for r in results] == list(range(6))
    assert sorted(calls.values) == list(range(6))
    gone(workers)
    assert p.get_worker_pids() == []


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_join_waits_for_the_callbacks(pool, mode):
    p = pool(4, processes=2, callbacks_in=mode)
    calls = Calls()

    def slow(value, meta):
        time.sleep(0.001)
        calls(value)

    for i in range(50):
        p.apply_async(tasks.same, (i,), callbacks=slow)
    p.close()
    assert Background(p.join).result() is True
    assert sorted(calls.values) == list(range(50))


def test_join_needs_close(pool):
    p = pool(1)
    with pytest.raises(ValueError, match="close"):
        p.join()


def test_join_by_many_threads(pool, gate):
    p = pool(1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    p.close()
    joiners = [Background(p.join) for _ in range(4)]
    assert stays(lambda: not any(j.done for j in joiners), 0.05)
    gate.open()
    assert [j.result() for j in joiners] == [True] * 4


def test_join_inside_a_callback(pool):
    p = pool(2, processes=1)
    seen = []

    def callback(value, meta):
        p.close()
        seen.append(p.join(1))

    p.apply_async(tasks.nothing, callbacks=callback)
    wait_until(lambda: seen, DEADLINE)
    assert Background(p.join, DEADLINE).result() is True


def test_a_callback_that_submits_after_close(pool):
    log = Log()
    p = pool(1, callbacks_in="caller", logger=log.logger)
    p.apply_async(tasks.nothing, callbacks=lambda *_: p.apply_async(tasks.nothing))
    p.close()
    assert p.join(DEADLINE)
    assert p.statistics().callback_errors == 1
    assert log.kinds == [PoolClosed]


# ---- terminate ----


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_terminate_ends_everything(pool, gate, start_method, mode):
    p = pool(10, processes=2, callbacks_in=mode)
    good, bad = Calls(), Calls()
    done = p.apply_async(tasks.same, (1,))
    done.get(DEADLINE)
    results = [
        p.apply_async(tasks.pass_gate, (gate.path, i), callbacks=good, errbacks=bad, meta=i)
        for i in range(10)
    ]
    gate.await_tasks(2)
    workers = p.get_worker_pids()
    start = time.monotonic()
    Background(p.terminate).result()
    took(start, 5)
    gone(workers)
    assert not good.calls
    assert sorted(meta for _, meta in bad.calls) == list(range(10))
    assert {type(exc) for exc in bad.values} == {PoolTerminated}
    for r in results:
        assert r.ready()
        assert not r.successful()
        with pytest.raises(PoolTerminated) as caught:
            r.get()
        assert caught.value.tid == r.tid
    assert done.get() == 1
    assert p.get_worker_pids() == []
    statistics = p.statistics()
    assert (statistics.submitted, statistics.succeeded, statistics.failed) == (11, 1, 10)
    assert statistics.lost == 0
    assert at_rest(p)
    assert p.join() is True


def test_terminate_is_idempotent(pool, gate):
    p = pool(1)
    bad = Calls()
    p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad)
    threads = [Background(p.terminate) for _ in range(4)]
    for thread in threads:
        thread.result()
    p.terminate()
    p.close()
    p.terminate()
    assert len(bad) == 1


def test_terminate_after_close(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    p.close()
    joiner = Background(p.join)
    Background(p.terminate).result()
    assert joiner.result() is True
    with pytest.raises(PoolTerminated):
        r.get(DEADLINE)
    with pytest.raises(PoolTerminated):
        p.apply_async(tasks.nothing)


def test_terminate_a_backlog(pool, gate):
    """Also what no ring has had room for, and what lies beside the rings."""
    p = pool(20_000, processes=2)
    bad = Calls()
    results = [p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad) for _ in range(15_000)]
    big = p.apply_async(tasks.digest, (bytes(1_000_000),), errbacks=bad)
    Background(p.terminate).result()
    assert len(bad) == 15_001
    assert all(r.ready() for r in results)
    assert big.ready()


@pytest.mark.parametrize("where", ["reaper", "reap", "get"])
def test_terminate_inside_a_callback(pool, gate, where):
    """It returns, and every errback runs."""
    p = pool(5, processes=1, callbacks_in="reaper" if where == "reaper" else "caller")
    bad, after = Calls(), []

    def callback(value, meta):
        p.terminate()
        p.terminate()
        after.append(len(p.get_worker_pids()))

    first = p.apply_async(tasks.nothing, callbacks=callback)
    others = [p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad) for _ in range(4)]
    if where == "reap":
        Background(p.reap, DEADLINE).result()
    elif where == "get":
        Background(first.get, DEADLINE).result()
    wait_until(lambda: after, DEADLINE, "terminate() in the callback")
    assert after == [0]
    Background(p.join).result()
    assert len(bad) == 4
    assert all(r.ready() for r in others)
    assert at_rest(p)


def test_an_errback_that_exits_during_terminate(pool, gate):
    """The others run, too."""
    p = pool(4, processes=1, callbacks_in="caller")
    bad = Calls()

    def stop(exc, meta):
        bad(exc)
        raise SystemExit("stop")

    for i in range(4):
        p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad if i else stop)
    with pytest.raises(SystemExit, match="stop"):
        p.terminate()
    p.terminate()
    p.join()
    assert len(bad) == 4
    assert at_rest(p)


def test_terminate_from_a_signal_handler(pool, gate):
    p = pool(2)
    bad = Calls()
    r = p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad)
    gate.await_tasks()
    before = signal.signal(signal.SIGUSR1, lambda *_: p.terminate())
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(PoolTerminated):
            r.get(DEADLINE)
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(bad) == 1


def test_terminate_of_stopped_workers(pool):
    """SIGSTOP does not save a worker."""
    p = pool(2)
    workers = p.get_worker_pids()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    r = p.apply_async(tasks.nothing)
    Background(p.terminate).result()
    gone(workers)
    with pytest.raises(PoolTerminated):
        r.get(0)


# ---- with ----


def test_with_runs_and_joins(start_method, gate):
    calls = Calls()
    with TaskPool(2, context=start_method) as p:
        workers = p.get_worker_pids()
        assert len(workers) == 2
        for i in range(10):
            p.apply_async(tasks.same, (i,), callbacks=calls)
    assert sorted(calls.values) == list(range(10))
    gone(workers)
    with pytest.raises(PoolClosed):
        p.apply_async(tasks.nothing)


def test_with_terminates_on_an_exception(gate):
    bad = Calls()
    with pytest.raises(KeyError, match="why"), TaskPool(2, context="fork") as p:
        workers = p.get_worker_pids()
        p.apply_async(tasks.pass_gate, (gate.path,), errbacks=bad)
        raise KeyError("why")
    gone(workers)
    assert [type(exc) for exc in bad.values] == [PoolTerminated]


def test_with_a_running_pool(pool):
    p = pool(1)
    workers = p.get_worker_pids()
    with p as same:
        assert same is p
        assert p.get_worker_pids() == workers
    gone(workers)


def test_with_twice():
    p = TaskPool(1, context="fork")
    for i in range(2):
        with p:
            assert p.apply_async(tasks.same, (i,)).get(DEADLINE) == i


def test_with_and_terminate_inside():
    with TaskPool(1, context="fork") as p:
        p.terminate()
    assert p.join()


# ---- dropped ----


@pytest.mark.parametrize("cycle", [False, True])
def test_a_dropped_pool_warns_and_its_processes_go(start_method, cycle):
    p = TaskPool(2, context=start_method)
    p.run()
    workers = p.get_worker_pids()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    wait_until(lambda: at_rest(p), DEADLINE)
    if cycle:
        p.me = p
    with pytest.warns(ResourceWarning, match="TaskPool"):
        del p
        gc.collect()
    gone(workers)


def test_a_dropped_pool_with_work_finishes_it_first(gate):
    """The callbacks run; then it warns and goes."""
    calls = Calls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is dropped in another thread
        p = TaskPool(1, context="fork")
        p.run()
        workers = p.get_worker_pids()
        p.apply_async(tasks.pass_gate, (gate.path, 1), callbacks=calls)
        del p
        gc.collect()
        gate.open()
        calls.wait()
        gone(workers)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_warning_after_a_proper_end(end):
    p = TaskPool(1, context="fork")
    p.run()
    getattr(p, end)()
    p.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del p
        gc.collect()


@pytest.mark.parametrize("busy", ["idle", "busy", "queued"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_interpreters_end(method, busy, gate):
    """A program that ends without a word leaves no process, and ends at once."""
    done = run_script(
        """
import sys, tasks
from celery_pool import TaskPool
if __name__ == "__main__":
    method, busy, gate = sys.argv[1:]
    pool = TaskPool(4, processes=2, context=method)
    pool.run()
    print(*pool.get_worker_pids())
    for _ in range({"idle": 0, "busy": 1, "queued": 4}[busy]):
        pool.apply_async(tasks.pass_gate, (gate,), errbacks=lambda exc, meta: None)
""",
        method,
        busy,
        gate.path,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    gone(map(int, done.stdout.split()))


@pytest.mark.parametrize("error", ["sys.exit(3)", "raise SystemExit(3)", "1 / 0", "os._exit(3)"])
def test_the_interpreters_end_by_an_error(error, gate):
    done = run_script(
        f"""
import os, sys, tasks
from celery_pool import TaskPool
pool = TaskPool(2, context="fork")
pool.run()
print(*pool.get_worker_pids(), flush=True)
pool.apply_async(tasks.pass_gate, (sys.argv[1],))
{error}
""",
        gate.path,
    )
    assert done.returncode == (1 if "/" in error else 3), done.stderr
    gone(map(int, done.stdout.split()))


# ---- statistics ----


def test_statistics(pool, gate):
    p = pool(6, processes=1, callbacks_in="reaper")
    entered, go_on, calls = threading.Event(), threading.Event(), Calls()

    def block(value, meta):
        entered.set()
        go_on.wait(DEADLINE)

    p.apply_async(tasks.same, (1,), callbacks=block)
    assert entered.wait(DEADLINE)
    p.apply_async(tasks.fail, (ValueError,), errbacks=calls)
    p.apply_async(tasks.same, (1,)).get(DEADLINE)
    p.apply_async(tasks.pass_gate, (gate.path,))
    p.apply_async(tasks.nothing)
    gate.await_tasks()
    statistics = p.statistics()
    assert isinstance(statistics, Statistics)
    assert {name: getattr(statistics, name) for name in COUNTS} == {
        "submitted": 5,
        "succeeded": 2,
        "failed": 1,
        "lost": 0,
        "in_flight": 2,
        "waiting_callbacks": 2,
        "callback_errors": 0,
        "workers": 1,
    }
    with pytest.raises(AttributeError):
        statistics.lost = 5
    go_on.set()
    gate.open()


def test_statistics_add_up(pool):
    p = pool(16, processes=2)
    for i in range(300):
        p.apply_async(*((tasks.same, (i,)) if i % 3 else (tasks.fail, (ValueError,))))
    p.close()
    assert p.join(DEADLINE)
    statistics = p.statistics()
    assert (statistics.submitted, statistics.succeeded, statistics.failed) == (300, 200, 100)
    assert statistics.workers == 0


def test_repr(pool):
    p = pool(3, processes=1)
    assert "running" in repr(p)
    assert "3" in repr(p)
    p.terminate()
    assert "terminated" in repr(p)
