"""Pools inside of processes that may have no children, or are not multiprocessing's own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from pathlib import Path
from typing import Any

import pytest

import tasks
from celery_pool import CrashLoopError, TaskPool
from guards import descendants, wait_until
from support import DEADLINE, Background, Gate, Log, is_gone

# ---- daemonic processes, as the workers of dask and Celery ----


def daemonic_body(method: str, directory: str, gate: str) -> None:
    assert multiprocessing.current_process().daemon
    with TaskPool(2, context=method) as p:
        assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
        assert multiprocessing.current_process().daemon  # its other children are still refused
        for _ in range(2):
            p.apply_async(tasks.pass_gate, (gate,))
        Path(directory, "ready").touch()
        p.close()
        assert p.join(3 * DEADLINE)


@pytest.fixture
def daemonic(start_method, tmp_path):
    """A running process with two tasks at the gate."""
    gate = Gate(tmp_path)
    process = multiprocessing.get_context("spawn").Process(
        target=daemonic_body, args=(start_method, str(tmp_path), gate.path), daemon=True
    )
    process.start()
    wait_until((tmp_path / "ready").exists, 2 * DEADLINE)
    gate.await_tasks(2)
    yield process, gate
    process.kill()
    process.join()
    process.close()


def test_a_pool_in_a_daemonic_process(daemonic):
    process, gate = daemonic
    gate.open()
    process.join(DEADLINE)
    assert process.exitcode == 0


def test_its_workers_go_when_that_is_killed(daemonic):
    process, gate = daemonic
    children = set(descendants(process.pid))
    assert set(gate.waiting()) < children
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in gate.waiting()), DEADLINE, "the workers gone")
    wait_until(lambda: all(is_gone(pid) for pid in children), DEADLINE, "all gone")


def test_a_pool_in_a_worker_of_a_standard_pool(start_method):
    with multiprocessing.get_context("spawn").Pool(1) as outer:
        assert outer.apply(tasks.pool_in_a_task, (start_method,)) == [0, 1, 2]
        outer.close()
        outer.join()


# ---- contexts of others ----


class OwnPopen(Popen):
    def close(self) -> None:
        super().close()
        raise RuntimeError("closed badly")


class OwnProcess(ForkProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        return OwnPopen(process_obj)


class OwnContext(ForkContext):
    Process = OwnProcess


@pytest.mark.parametrize("end", ["terminate", "close"])
def test_whatever_fails_at_the_end_nobody_waits_for_ever(end):
    """The pool is broken, with that as the cause."""
    log = Log()
    p = TaskPool(1, context=OwnContext(), logger=log.logger)
    p.run()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    getattr(p, end)()
    assert Background(p.join).result()
    assert "closed badly" in log.text
    with pytest.raises(CrashLoopError, match="RuntimeError: closed badly"):
        p.apply_async(tasks.same, (1,))
