"""The soft limit's signal where others have ideas of it, its error, and who is told."""

from __future__ import annotations

import signal
import threading
import time

import pytest

import tasks
from celery_pool import SoftTimeLimitExceeded, TaskPool, TimeLimitExceeded
from support import DEADLINE


class TooSlow(Exception):
    pass


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
    with pytest.raises(TooSlow, match="soft_timeout"):
        p.apply_async(time.sleep, (60,)).get(DEADLINE)


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
