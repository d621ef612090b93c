"""An outage of what workers need to start does not end the pool; nor do tasks that kill
their workers, nor a worker that is killed while it starts."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import tasks
from celery_pool import StartError, TaskPool, TaskPoolExecutor, WorkerLostError
from celery_pool.supervision.restarts import JITTER, OUTAGE_DELAY
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, Log, took


def slow_to_fail(flag: str) -> None:
    if os.path.exists(flag):
        time.sleep(1000)


def leave_while(flag: str) -> None:
    if os.path.exists(flag):
        os._exit(9)


def die_first(path: str, times: int, gate: str | None, signum: int = signal.SIGKILL) -> None:
    """The first `times` workers that come here are killed, beyond the gate."""
    for n in range(times):
        try:
            os.close(os.open(f"{path}.{n}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if gate is not None:
            tasks.pass_gate(gate)
        os.kill(os.getpid(), signum)


def kill_own_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def log():
    return Log()


# ---- outages ----


class Load:
    """Tasks, for as long as it lasts; workers are recycled all the time, and so none of them
    is there for long after an outage has begun."""

    def __init__(self, pool: TaskPool) -> None:
        self.pool = pool
        self.over = False
        self.good, self.bad = Calls(), Calls()
        self._thread = Background(self._submit)

    def _submit(self) -> int:
        count = 0
        while not self.over:
            self.pool.apply_async(tasks.same, (count,), callbacks=self.good, errbacks=self.bad)
            count += 1
        return count

    def stands_still(self) -> bool:
        statistics = self.pool.statistics()
        return statistics.exits.get("failed_start", 0) > 0 and statistics.workers <= 1

    def end(self) -> int:
        self.over = True
        return self._thread.result()


def outage(pool, workers: int, seconds: float, log: Log, flag: Path, initializer) -> None:
    p = pool(
        4 * workers,
        processes=workers,
        logger=log.logger,
        initializer=initializer,
        initargs=(str(flag),),
        maxtasksperchild=20,
    )
    load = Load(p)
    load.good.wait(10 * workers)
    flag.touch()
    wait_until(load.stands_still, 2 * DEADLINE)
    done = len(load.good)
    threading.Event().wait(seconds)
    assert len(load.good) == done
    flag.unlink()
    begin = time.monotonic()
    wait_until(lambda: len(load.good) > done, DEADLINE)
    took(begin, OUTAGE_DELAY * (1 + JITTER) + 0.75)
    load.good.wait(done + 10 * workers)
    count = load.end()
    p.close()
    assert p.join(2 * DEADLINE)
    assert sorted(load.good.values) == list(range(count))
    assert not load.bad.calls


@pytest.mark.parametrize("initializer", [tasks.fail_while, leave_while])
@pytest.mark.parametrize("workers", [1, 8])
def test_no_task_is_lost_in_an_outage(pool, workers, initializer, log, tmp_path):
    outage(pool, workers, 1.5, log, tmp_path / "flag", initializer)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [2, 8, 32])
def test_an_outage_of_a_minute(pool, workers, log, tmp_path):
    outage(pool, workers, 60, log, tmp_path / "flag", tasks.fail_while)


def test_starts_that_take_too_long_are_an_outage_too(pool, log, tmp_path):
    flag = tmp_path / "flag"
    p = pool(
        2, logger=log.logger, initializer=slow_to_fail, initargs=(str(flag),), start_timeout=1.0
    )
    flag.touch()
    for pid in p.get_worker_pids():
        os.kill(pid, signal.SIGKILL)
    r = p.apply_async(tasks.same, (1,))
    wait_until(lambda: p.statistics().exits.get("failed_start", 0) >= 2, DEADLINE)
    flag.unlink()
    assert r.get(DEADLINE) == 1


def test_one_worker_at_a_time_asks_whether_it_is_over(pool, log, tmp_path):
    flag = tmp_path / "flag"
    p = pool(8, logger=log.logger, initializer=tasks.fail_while, initargs=(str(flag),))
    flag.touch()
    for pid in p.get_worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: p.statistics().exits.get("failed_start", 0) >= 8 + 4, DEADLINE)
    for _ in range(100):
        assert p.statistics().workers <= 1
        time.sleep(0.002)
    flag.unlink()
    wait_until(lambda: p.statistics().workers == 8, DEADLINE)


# ---- poison pills ----


@pytest.mark.parametrize("processes", [1, 4])
def test_tasks_that_kill_their_worker_hold_nobody_up(pool, processes, log):
    p = pool(None, processes=processes, logger=log.logger, max_restarts=1)
    pills = [p.apply_async(kill_own_worker) for _ in range(130)]
    good = p.apply_async(tasks.same, (1,))
    assert good.get(3 * DEADLINE) == 1
    assert p._supervisor._restarts.next_start == 0  # nobody has waited
    for pill in pills:
        with pytest.raises(WorkerLostError):
            pill.get(DEADLINE)
    assert p.statistics().exits == {"signal": 130}


# ---- killed while it starts ----


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_killed_while_it_starts_is_started_again(
    pool, start_method, signum, log, tmp_path
):
    p = pool(
        2,
        logger=log.logger,
        initializer=die_first,
        initargs=(str(tmp_path / "first"), 1, None, signum),
    )
    assert len(p.get_worker_pids()) == 2
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert p.statistics().exits == {"failed_start": 1}


def test_it_costs_the_others_nothing(log, tmp_path, gate):
    held = Gate(tmp_path, "held")
    with TaskPoolExecutor(
        2,
        "fork",
        initializer=die_first,
        initargs=(str(tmp_path / "first"), 1, held.path),
    ) as executor:
        running = executor.submit(tasks.pass_gate, gate.path)
        gate.await_tasks(1)
        held.await_tasks(1)
        held.open()
        waiting = executor.submit(tasks.same, 1)
        assert waiting.result(DEADLINE) == 1  # in the one that was started again
        gate.open()
        running.result(DEADLINE)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_start_that_is_killed_again_and_again_has_failed(signum, log, tmp_path):
    p = TaskPool(
        2,
        context="fork",
        logger=log.logger,
        initializer=die_first,
        initargs=(str(tmp_path / "first"), 1000, None, signum),
    )
    with pytest.raises(StartError, match=signum.name):
        p.run()
    assert len(list(tmp_path.glob("first.*"))) < 100
