"""The program is told when its pool has started, and when it breaks."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import tasks
from celery_pool import CrashLoopError, StartError, TaskPool
from guards import wait_until
from support import DEADLINE, Calls, Log


@pytest.fixture
def log():
    return Log()


def test_on_start_comes_once_when_all_are_ready(pool, gate):
    started = Calls()
    p = TaskPool(
        2,
        context="fork",
        initializer=tasks.pass_gate,
        initargs=(gate.path,),
        on_start=started,
    )
    p.run(wait=False)
    try:
        gate.await_tasks(2)
        assert p.ready == 0
        assert not started.calls
        gate.open()
        assert started.wait() == [()]
        assert p.ready == 2
        victim = p.get_worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in p.get_worker_pids(), DEADLINE)
        wait_until(lambda: p.ready == 2, DEADLINE)
    finally:
        p.terminate()
    assert p.ready == 0
    p.run()
    started.wait(2)
    p.terminate()
    assert len(started) == 2


def test_on_broken_when_the_start_fails(log, tmp_path):
    broken, started = Calls(), Calls()
    flag = tmp_path / "flag"
    flag.touch()
    p = TaskPool(
        2,
        context="fork",
        logger=log.logger,
        initializer=tasks.fail_while,
        initargs=(str(flag),),
        on_start=started,
        on_broken=broken,
    )
    p.run(wait=False)
    [(error,)] = broken.wait()
    assert type(error) is StartError
    assert type(error.cause) is ConnectionError
    p.terminate()
    with pytest.raises(ConnectionError):
        p.run()
    assert len(broken) == 1  # run() has said it itself
    assert not started.calls


def test_on_broken_may_start_it_afresh(pool, log, tmp_path):
    flag = tmp_path / "flag"
    done = threading.Event()

    def again(error: BaseException) -> None:
        assert type(error) is CrashLoopError
        flag.unlink()
        p.run()
        done.set()

    p = pool(
        2,
        logger=log.logger,
        initializer=tasks.fail_while,
        initargs=(str(flag),),
        start_retries=1,
        on_broken=again,
    )
    flag.touch()
    for pid in p.get_worker_pids():
        os.kill(pid, signal.SIGKILL)
    assert done.wait(DEADLINE), log.text
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_they_raise_is_logged(pool, log, error):
    def bad() -> None:
        raise error("mine")

    p = pool(1, logger=log.logger, on_start=bad)
    wait_until(lambda: error in log.kinds, DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_they_may_end_the_pool(how):
    called = threading.Event()

    def end() -> None:
        getattr(p, how)()
        p.join()
        called.set()

    p = TaskPool(1, context="fork", on_start=end)
    p.run(wait=False)
    assert called.wait(DEADLINE)
    assert p.join(DEADLINE)
