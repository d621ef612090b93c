"""Soft and hard time limits of tasks."""

from __future__ import annotations

import time

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

pytestmark = pytest.mark.slow


def test_soft(site, worker, client, tmp_path) -> None:
    w = worker("-c", "1")
    pid = client.call("pid")
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        client.call("sleep", 60, soft_time_limit=1)
    assert caught.value.args == ()
    w.await_log(r"Soft time limit \(1(\.0)?s\) exceeded for celery_app.sleep")
    assert client.call("tidy_up", "SoftTimeLimitExceeded", "gate", soft_time_limit=1) == (
        "SoftTimeLimitExceeded()"
    )
    assert client.call("pid") == pid


@pytest.mark.parametrize("task", ["loop_in_c", "swallow"])
def test_hard(site, worker, client, task: str) -> None:
    """In C code, and whatever the task does about it."""
    w = worker("-c", "1", conf={"task_soft_time_limit": 1} if task == "swallow" else {})
    pid = client.call("pid")
    start = time.monotonic()
    with pytest.raises(TimeLimitExceeded) as caught:
        client.call(task, *(["gate"] if task == "swallow" else []), time_limit=2)
    assert time.monotonic() - start < 10
    assert caught.value.args == (2,)
    w.await_log(r"Hard time limit \(2(\.0)?s\) exceeded for celery_app." + task)
    w.await_log(r"At its hard time limit, task \d+ was in:")
    w.await_log(rf"in {task}")
    assert client.call("pid") != pid


def test_of_the_worker(site, worker, client) -> None:
    """By its command line; the task's own takes precedence."""
    worker("-c", "1", "--time-limit", "2", "--soft-time-limit", "1")
    with pytest.raises(SoftTimeLimitExceeded):
        client.call("sleep", 60)
    with pytest.raises(TimeLimitExceeded):
        client.call("loop_in_c")
    assert client.call("sleep", 2.5, time_limit=60, soft_time_limit=50) is None


def test_of_memory_in_the_middle_of_a_task(redis_site, worker, client) -> None:
    """An option of the pool's: the task fails, and says why."""
    worker("-c", "1", conf={"celery_pool": {"memory_kill": 300_000}})
    pid = client.call("allocate", 1)
    r = client.send("allocate", 400, 60)
    with pytest.raises(WorkerLostError, match=r"used \d+ KiB, more than 300000 KiB"):
        client.get(r)
    assert client.call("pid") != pid


@pytest.mark.parametrize("acks_on_timeout", [True, False])
def test_acknowledged_late(redis_site, worker, client, gate, acks_on_timeout: bool) -> None:
    worker(
        "-c", "1", conf={"task_acks_late": True, "task_acks_on_failure_or_timeout": acks_on_timeout}
    )
    r = client.send("append", "runs", "x", 60, time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        client.get(r)
    client.call("add", 1, 1)
    runs = (redis_site.directory / "runs").read_text().split()
    assert len(runs) == 1 if acks_on_timeout else len(runs) >= 1
