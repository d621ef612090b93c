"""Workers that keep dying: held back, then given up, with the cause in everybody's hands."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import pairwise
from multiprocessing.pool import RemoteTraceback
from pathlib import Path

import pytest

import tasks
from celery_pool import CrashLoopError, PoolClosed, PoolTerminated, StartError, TaskPool
from celery_pool.supervision.restarts import FIRST_DELAY
from guards import descendants, wait_until
from support import DEADLINE, Background, Calls, Gate, Log, took

LONG_TEXT = 300_000


def fail_if(flag: str, text: str, log: str) -> None:
    if os.path.exists(flag):
        tasks.append(log, f"{time.monotonic()}")
        raise ValueError(text)


def exit_if(flag: str) -> None:
    if os.path.exists(flag):
        os._exit(9)


def fail_with(size: int) -> None:
    raise ValueError("x" * size)


@pytest.fixture
def log():
    return Log()


class Loop:
    """A pool whose replacements fail from a moment on."""

    def __init__(self, pool, directory: Path, log: Log, text: str = "no database", **options):
        self.flag = directory / "flag"
        self.starts = directory / "starts"
        self.starts.touch()
        options.setdefault("start_retries", 4)
        options.setdefault("processes", 2)
        self.pool = pool(
            50,
            logger=log.logger,
            initializer=fail_if,
            initargs=(str(self.flag), text, str(self.starts)),
            **options,
        )

    def begin(self) -> None:
        self.flag.touch()
        for pid in self.pool.get_worker_pids():
            os.kill(pid, signal.SIGKILL)

    def attempts(self) -> list[float]:
        return list(map(float, self.starts.read_text().split()))

    def broken(self, p: TaskPool) -> bool:
        try:
            p.apply_async(tasks.nothing)
        except CrashLoopError:
            return True
        return False


# ---- from the start ----


@pytest.mark.parametrize("size", [10, LONG_TEXT])
def test_an_initializer_that_fails_from_the_start(size, start_method):
    p = TaskPool(2, context=start_method, initializer=fail_with, initargs=(size,))
    before = set(descendants())
    with pytest.raises(ValueError, match="x") as caught:
        p.run()
    assert str(caught.value) == "x" * size
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "fail_with" in str(caught.value.__cause__)
    del caught
    if start_method == "fork":  # others have standing helpers
        assert not set(descendants()) - before


@pytest.mark.parametrize("max_restarts", [1, 100])
def test_workers_that_exit_from_the_start(max_restarts, tmp_path, log):
    (tmp_path / "flag").touch()
    p = TaskPool(
        3,
        context="fork",
        logger=log.logger,
        initializer=exit_if,
        initargs=(str(tmp_path / "flag"),),
        max_restarts=max_restarts,
    )
    with pytest.raises(StartError, match="exit code 9"):
        p.run()
    (tmp_path / "flag").unlink()
    with p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


# ---- later ----


@pytest.mark.parametrize("text", ["no database", "x" * LONG_TEXT], ids=["short", "long"])
def test_the_initializer_starts_to_fail(pool, tmp_path, log, text):
    gate = Gate(tmp_path)
    good, bad = Calls(), Calls()
    loop = Loop(pool, tmp_path, log, text=text)
    p = loop.pool
    running = [
        p.apply_async(tasks.pass_gate, (gate.path,), callbacks=good, errbacks=bad) for _ in range(2)
    ]
    gate.await_tasks(2)
    waiting = [p.apply_async(tasks.same, (i,), callbacks=good, errbacks=bad) for i in range(20)]
    loop.begin()
    for r in waiting:
        with pytest.raises(CrashLoopError) as caught:
            r.get(DEADLINE)
        error = caught.value
        assert error.tid == r.tid
        assert type(error.cause) is ValueError
        assert str(error.cause) == text
        assert error.__cause__ is error.cause
        assert "fail_if" in str(error.cause.__cause__)
    assert all(r.ready() for r in running)
    wait_until(lambda: len(bad) == 22, DEADLINE)
    assert not good.calls
    with pytest.raises(CrashLoopError, match="ValueError") as caught:
        p.apply_async(tasks.nothing)
    assert type(caught.value.cause) is ValueError
    del caught, error
    assert p.statistics().in_flight == 0
    assert p.get_worker_pids() == []
    assert len(loop.attempts()) <= 2 + 4
    assert set(log.kinds) == {ValueError}
    assert "the pool is broken" in log.messages[-1]
    bad.calls.clear()


def test_the_delays_grow(pool, tmp_path, log):
    loop = Loop(pool, tmp_path, log, start_retries=5, processes=1)
    loop.begin()
    wait_until(lambda: loop.broken(loop.pool), DEADLINE)
    attempts = loop.attempts()
    assert len(attempts) == 6
    for n, (one, next_one) in enumerate(pairwise(attempts)):
        assert next_one - one >= FIRST_DELAY * 2**n


def test_a_crash_loop_costs_hardly_any_cpu(pool, tmp_path, log):
    loop = Loop(pool, tmp_path, log, start_retries=None)
    loop.begin()
    loop.pool.apply_async(tasks.same, (1,))
    wait_until(lambda: len(loop.attempts()) >= 10, 20)  # the delays are long by now
    start, cpu = time.monotonic(), time.process_time()
    count = len(loop.attempts())
    wait_until(lambda: len(loop.attempts()) >= count + 2, DEADLINE)
    assert (time.process_time() - cpu) / (time.monotonic() - start) < 0.2


def test_it_recovers_within_the_budget(pool, tmp_path, log):
    loop = Loop(pool, tmp_path, log, start_retries=None)
    loop.begin()
    r = loop.pool.apply_async(tasks.same, (1,))
    wait_until(lambda: len(loop.attempts()) >= 5, DEADLINE)
    assert not r.ready()
    loop.flag.unlink()
    assert r.get(DEADLINE) == 1
    wait_until(lambda: len(loop.pool.get_worker_pids()) == 2, DEADLINE)
    wait_until(lambda: loop.pool.statistics().exits.get("failed_start", 0) >= 5, DEADLINE)
    assert loop.pool.statistics().exits["signal"] == 2


def crash_soon() -> None:
    threading.Timer(0.01, os._exit, (3,)).start()


def test_workers_that_die_while_they_wait(pool, log):
    """Ready, and then dead, each time: that is a crash loop."""
    p = pool(50, processes=2, logger=log.logger, initializer=crash_soon, max_restarts=3)
    with pytest.raises(CrashLoopError, match="more than 3 times") as caught:
        while True:
            p.apply_async(time.sleep, (DEADLINE,)).wait(DEADLINE)
            wait_until(lambda: len(p.get_worker_pids()) == 0, DEADLINE)
    assert "exit code 3" in str(caught.value.cause)


def test_who_waits_for_a_slot_is_told(pool, tmp_path, log):
    gate = Gate(tmp_path)
    loop = Loop(pool, tmp_path, log)
    p = loop.pool
    p.limit = 2
    for _ in range(2):
        p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks(2)

    def submit():
        with pytest.raises(CrashLoopError):
            for _ in range(50):
                p.apply_async(tasks.pass_gate, (gate.path,))

    submitter = Background(submit)
    loop.begin()
    submitter.result()


@pytest.mark.parametrize("callbacks_in", ["any", "caller"])
@pytest.mark.parametrize("how", ["terminate", "close and join", "run later", "run"])
def test_afresh(pool, tmp_path, log, how, callbacks_in):
    loop = Loop(pool, tmp_path, log, callbacks_in=callbacks_in)
    p = loop.pool
    last = p.apply_async(tasks.nothing)
    last.get(DEADLINE)
    loop.begin()
    bad = Calls()
    p.apply_async(tasks.nothing, errbacks=bad)
    wait_until(lambda: loop.broken(p), DEADLINE)
    loop.flag.unlink()
    if how == "terminate":
        p.terminate()
        with pytest.raises((PoolTerminated, CrashLoopError)):
            p.apply_async(tasks.nothing)
    elif how == "close and join":
        p.close()
        assert p.join(DEADLINE) is True
        with pytest.raises((PoolClosed, CrashLoopError)):
            p.apply_async(tasks.nothing)
    elif how == "run later":
        wait_until(lambda: p._supervisor.has_ended, DEADLINE)
    p.run()
    bad.wait()
    r = p.apply_async(tasks.same, (1,))
    assert r.get(DEADLINE) == 1
    assert r.tid > last.tid
    assert p.statistics().exits == {}


def test_afresh_in_an_errback(pool, tmp_path, log):
    loop = Loop(pool, tmp_path, log)
    p = loop.pool

    def again(error, meta):
        loop.flag.unlink()
        p.run()

    loop.begin()
    r = p.apply_async(tasks.nothing, errbacks=again)
    with pytest.raises(CrashLoopError):
        r.get(DEADLINE)
    wait_until(lambda: not loop.broken(p), DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert not log.messages or "raised" not in log.text


def test_broken_inside_a_with_statement(tmp_path, log):
    flag = tmp_path / "flag"
    with TaskPool(
        2,
        context="fork",
        logger=log.logger,
        initializer=exit_if,
        initargs=(str(flag),),
        start_retries=2,
    ) as p:
        flag.touch()
        for pid in p.get_worker_pids():
            os.kill(pid, signal.SIGKILL)
        r = p.apply_async(tasks.nothing)
        with pytest.raises(CrashLoopError):
            r.get(DEADLINE)
    assert p.get_worker_pids() == []


def test_terminate_in_the_middle_of_it(pool, tmp_path, log):
    loop = Loop(pool, tmp_path, log, start_retries=None)
    r = loop.pool.apply_async(tasks.nothing)
    r.get(DEADLINE)
    loop.begin()
    r = loop.pool.apply_async(tasks.nothing)
    wait_until(lambda: len(loop.attempts()) >= 5, DEADLINE)
    start = time.monotonic()
    loop.pool.terminate()
    took(start, 3)
    with pytest.raises(PoolTerminated):
        r.get(0)


def test_close_and_join_in_the_middle_of_it(pool, tmp_path, log):
    """It drains as soon as a worker starts again."""
    loop = Loop(pool, tmp_path, log, start_retries=None)
    loop.begin()
    r = loop.pool.apply_async(tasks.same, (1,))
    wait_until(lambda: len(loop.attempts()) >= 3, DEADLINE)
    loop.pool.close()
    joiner = Background(loop.pool.join)
    threading.Event().wait(0.05)
    loop.flag.unlink()
    assert joiner.result() is True
    assert r.get(0) == 1
