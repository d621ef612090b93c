"""What happens to workers stands in the log, with its facts."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading

import pytest

import limit_targets
import tasks
from celery_pool import MemoryLimitExceeded, TaskPool, WorkerLostError
from guards import wait_until
from support import DEADLINE

FACTS = ("pid", "exitcode", "signal", "tid", "function")


class Records(logging.Handler):
    """Keeps facts, and no traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.logger = logging.Logger("records")
        self.logger.addHandler(self)
        self.found: list[tuple[str, str, dict[str, object], str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        facts = {name: getattr(record, name) for name in FACTS}
        event = record.event  # type: ignore[attr-defined]
        self.found.append((record.levelname, event, facts, self.format(record)))

    def await_event(self, event: str, times: int = 1) -> tuple[str, dict[str, object], str]:
        def those():
            found = [entry for entry in self.found if entry[1] == event]
            return found if len(found) >= times else None

        level, _, facts, text = wait_until(those, DEADLINE, event)[-1]
        return level, facts, text


def hungry() -> None:
    block = bytearray(200 << 20)
    block[::4096] = b"x" * len(block[::4096])
    threading.Event().wait(DEADLINE)


def fail_while(flag: str) -> None:
    if os.path.exists(flag):
        raise ConnectionError("the database is down {pid} %s")


@pytest.fixture
def records():
    return Records()


def test_a_death(pool, records):
    p = pool(1, logger=records.logger)
    [pid] = p.get_worker_pids()
    r = p.apply_async(tasks.die)
    with pytest.raises(WorkerLostError):
        r.get(DEADLINE)
    level, facts, text = records.await_event("died")
    assert level == "WARNING"
    assert facts == {
        "pid": pid,
        "exitcode": -9,
        "signal": "SIGKILL",
        "tid": r.tid,
        "function": "tasks.die",
    }
    for part in (str(pid), "SIGKILL", f"task {r.tid} (tasks.die)"):
        assert part in text
    level, facts, _ = records.await_event("restarted")
    assert (level, facts["pid"]) == ("INFO", p.get_worker_pids()[0])


def test_a_death_by_its_own_hand_and_an_idle_one(pool, records):
    p = pool(1, logger=records.logger)
    p.apply_async(functools.partial(tasks.leave, 3))  # travels with the task
    level, facts, text = records.await_event("died")
    assert (level, facts["exitcode"], facts["signal"]) == ("WARNING", 3, None)
    assert (facts["tid"], facts["function"]) == (1, None)
    wait_until(lambda: p.ready == 1, DEADLINE)
    [pid] = p.get_worker_pids()
    os.kill(pid, signal.SIGTERM)
    level, facts, text = records.await_event("died", 2)
    assert (facts["pid"], facts["signal"], facts["tid"]) == (pid, "SIGTERM", None)
    assert "task" not in text


def test_limits(pool, records):
    p = pool(1, logger=records.logger)
    r = p.apply_async(limit_targets.swallows, (100,), soft_timeout=0.1, timeout=1.5)
    r.wait(DEADLINE)
    for event in ("soft_limit", "hard_limit"):
        level, facts, text = records.await_event(event)
        assert (level, facts["tid"], facts["function"]) == (
            "WARNING",
            r.tid,
            "limit_targets.swallows",
        )
        assert str(facts["pid"]) in text
    events = [event for _, event, _, _ in records.found]
    assert events.count("soft_limit") == 1  # though it was signalled twice
    assert "died" not in events


def test_the_memory_limit(pool, records):
    p = pool(1, logger=records.logger, memory_kill=100 << 10)
    r = p.apply_async(hungry)
    with pytest.raises(MemoryLimitExceeded):
        r.get(DEADLINE)
    level, facts, _ = records.await_event("memory")
    assert (level, facts["tid"], facts["function"]) == ("WARNING", r.tid, "test_log.hungry")


def test_a_task_ended_by_hand(pool, records, gate):
    p = pool(1, logger=records.logger)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    [pid] = gate.await_tasks()
    assert r.terminate()
    level, facts, text = records.await_event("terminated")
    assert level == "INFO"
    assert (facts["pid"], facts["tid"], facts["signal"]) == (pid, r.tid, "SIGTERM")
    assert "tasks.pass_gate" in text


def test_recycling_is_for_debugging(pool, records):
    p = pool(2, processes=1, logger=records.logger, maxtasksperchild=1)
    p.apply_async(tasks.nothing)
    level, _, text = records.await_event("ended")
    assert level == "DEBUG"
    assert "recycled" in text


def test_an_outage_and_its_end(pool, records, tmp_path):
    flag = tmp_path / "flag"
    p = pool(2, logger=records.logger, initializer=fail_while, initargs=(str(flag),))
    flag.touch()
    for pid in p.get_worker_pids():
        os.kill(pid, signal.SIGKILL)
    level, facts, text = records.await_event("start_failed")
    assert level == "ERROR"
    assert facts["pid"]
    assert "fail_while" in text  # the traceback
    assert "the database is down {pid} %s" in text
    wait_until(lambda: p.statistics().exits["failed_start"] >= 5, DEADLINE)
    assert [event for _, event, _, _ in records.found].count("start_failed") == 1
    flag.unlink()
    level, _, text = records.await_event("outage_over")
    assert level == "WARNING"
    records.await_event("restarted", 2)


def test_the_end_of_the_pool(pool, records, tmp_path):
    flag = tmp_path / "flag"
    p = pool(
        1, logger=records.logger, initializer=fail_while, initargs=(str(flag),), start_retries=0
    )
    flag.touch()
    os.kill(p.get_worker_pids()[0], signal.SIGKILL)
    level, _, text = records.await_event("broken")
    assert level == "ERROR"
    assert "fail_while" in text


class Breaks(logging.Handler):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.calls += 1
        raise self.error("the disk is full")


@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_does_no_harm(pool, error, capfd):
    handler = Breaks(error)
    logger = logging.Logger("broken")
    logger.addHandler(handler)
    p = pool(2, logger=logger)
    for _ in range(3):
        with pytest.raises(WorkerLostError):
            p.apply_async(tasks.die).get(DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert handler.calls >= 3
    logger.removeHandler(handler)  # pytest's capture ends before the pool
    assert "the logger raised an exception" in capfd.readouterr().err


def test_nothing_is_logged_of_an_ordinary_life(records):
    with TaskPool(4, processes=2, context="fork", logger=records.logger) as p:
        p.grow()
        p.shrink()
        for i in range(20):
            p.apply_async(tasks.same, (i,))
    assert {level for level, _, _, _ in records.found} <= {"DEBUG"}
