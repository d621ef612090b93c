"""The soft limit's signal where others have ideas of it, its error, and who is told."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks
from celery_pool import SoftTimeLimitExceeded, TaskPool, TaskTerminated, TimeLimitExceeded
from guards import wait_until
from support import DEADLINE, Gate


class TooSlow(Exception):
    def __str__(self) -> str:
        return "too slow"


def take_the_signal() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def take_the_signal_and_sleep(seconds: float) -> str:
    take_the_signal()
    time.sleep(seconds)
    return "slept"


def test_an_initializer_that_resets_the_signal(pool) -> None:
    p = pool(1, initializer=take_the_signal, soft_timeout=0.1)
    (pid,) = p.get_worker_pids()
    with pytest.raises(SoftTimeLimitExceeded):
        p.apply_async(time.sleep, (60,)).get(DEADLINE)
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid


def test_a_task_that_resets_the_signal(pool, caplog) -> None:
    """Nothing is raised, but it does not end the worker either."""
    p = pool(1, soft_timeout=0.5)
    (pid,) = p.get_worker_pids()
    assert p.apply_async(take_the_signal_and_sleep, (1,)).get(DEADLINE) == "slept"
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid
    assert any("soft limit's signal" in record.message for record in caplog.records)


def test_an_error_of_ones_own(pool) -> None:
    p = pool(1, soft_timeout=0.1, soft_limit_error=TooSlow)
    with pytest.raises(TooSlow, match="too slow"):
        p.apply_async(time.sleep, (60,)).get(DEADLINE)


def tidy_up(begun: str, tidy: str) -> None:
    try:
        Path(begun).touch()
        time.sleep(60)
    except SoftTimeLimitExceeded:
        Path(tidy).touch()


def test_a_task_that_is_terminated_by_the_soft_limits_signal(pool, tmp_path: Path) -> None:
    """It may clean up, and is terminated all the same."""
    p = pool(1, kill_grace=3 * DEADLINE)
    begun, tidy = tmp_path / "begun", tmp_path / "tidy"
    r = p.apply_async(tidy_up, (str(begun), str(tidy)))
    wait_until(begun.exists)
    assert r.terminate(signal.SIGUSR1)
    with pytest.raises(TaskTerminated):
        r.get(DEADLINE)
    wait_until(tidy.exists)
    assert p.apply_async(tasks.pid).get(DEADLINE) != r.worker_pid


@pytest.mark.parametrize("error", [int, "ValueError", ValueError("x"), None])
def test_no_error(error: object) -> None:
    with pytest.raises(TypeError, match="soft_limit_error"):
        TaskPool(1, soft_limit_error=error)  # type: ignore[arg-type]


def test_the_program_is_told(pool) -> None:
    told: list[tuple[str, object]] = []
    both = threading.Semaphore(0)

    def on_soft_timeout(tid: object) -> None:
        told.append(("soft", tid))
        both.release()

    def on_timeout(tid: object) -> None:
        told.append(("hard", tid))
        both.release()

    p = pool(1, soft_timeout=1, timeout=1.5, on_soft_timeout=on_soft_timeout, on_timeout=on_timeout)
    r = p.apply_async(take_the_signal_and_sleep, (60,))
    with pytest.raises(TimeLimitExceeded):
        r.get(DEADLINE)
    for _ in range(2):
        assert both.acquire(timeout=DEADLINE)
    assert told == [("soft", r.tid), ("hard", r.tid)]


class LateCore:
    """The supervisor's core; something happens after a limit was found to be exceeded, before it
    is acted upon."""

    def __init__(self, core: Any, meanwhile: Callable[[], object]) -> None:
        self._core = core
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def take_sentences(self) -> list[Any]:
        sentences: list[Any] = self._core.take_sentences()
        if sentences:
            self._meanwhile()
        return sentences


def test_the_program_is_told_of_a_task_that_has_just_ended(pool, tmp_path, caplog) -> None:
    """And not of the next one."""
    first, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
    told: list[object] = []

    def go_on() -> None:
        first.open()
        second.await_tasks()

    p = pool(2, processes=1, on_soft_timeout=told.append)
    enforcement = p._supervisor._enforcement
    enforcement._core = LateCore(enforcement._core, go_on)
    slow = p.apply_async(tasks.pass_gate, (first.path,), soft_timeout=0.1)
    other = p.apply_async(tasks.pass_gate, (second.path, "value"))
    wait_until(lambda: told, DEADLINE)
    second.open()
    assert (slow.get(DEADLINE), other.get(DEADLINE)) == (None, "value")
    assert told == [slow.tid]
    assert [record.tid for record in caplog.records if record.event == "soft_limit"] == [slow.tid]
