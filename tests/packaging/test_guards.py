"""The guard around each test: it finds what we leave, and nothing of other programs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

import tasks
from celery_pool import PoolTerminated, TaskPool
from guards import Belongings, leftovers, wait_until
from support import DEADLINE, START_METHODS, is_gone, script_environment

SHM = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="there is no /dev/shm")


@pytest.fixture
def before() -> Belongings:
    return Belongings.now()


def test_nothing_is_left(before):
    assert leftovers(before, 0) == []


def test_names_of_other_programs_are_none_of_ours(before):
    name = f"PostgreSQL.{os.getppid()}"
    make = f"open('/dev/shm/{name}', 'w').close(); import time; time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", make], start_new_session=True)
    try:
        wait_until((SHM / name).exists, DEADLINE)
        left = leftovers(before, 0)
        assert len(left) == 1 and left[0].startswith(f"child process: {other.pid} ")
    finally:
        other.kill()
        other.wait()
        (SHM / name).unlink()


def test_memory_with_a_name(before):
    memory = SharedMemory(create=True, size=4096)
    try:
        found = " ".join(leftovers(before, 0))
        assert f"shared memory: /dev/shm/{memory.name}" in found
        assert f"shared memory: mapping of /dev/shm/{memory.name}" in found
        assert f"-> /dev/shm/{memory.name}" in found
    finally:
        memory.close()
        memory.unlink()
    assert leftovers(before, 0) == []


def leave_memory() -> None:
    from multiprocessing import resource_tracker

    memory = SharedMemory(create=True, size=4096)
    resource_tracker.unregister(memory._name, "shared_memory")
    memory.close()


def test_memory_that_a_child_has_left(before):
    child = multiprocessing.get_context("fork").Process(target=leave_memory)
    child.start()
    child.join()
    child.close()
    (left,) = leftovers(before, 0)
    name = left.removeprefix("shared memory: ")
    assert name.startswith(f"/dev/shm/{os.getpid()}-")
    os.unlink(name)
    assert leftovers(before, 0) == []


def prefix_of_semaphores() -> str:
    return multiprocessing.current_process()._config["semprefix"]


@pytest.mark.parametrize("method", START_METHODS)
def test_semaphores_of_children_are_called_after_us(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(prefix_of_semaphores) == f"/mp-{os.getpid()}"
        pool.close()
        pool.join()


def test_memory_without_a_name(before):
    fd = os.memfd_create("celery_pool")
    (left,) = leftovers(before, 0)
    assert left == f"descriptor: {fd} -> /memfd:celery_pool (deleted)"
    os.close(fd)


def test_a_thread(before):
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, name="lingering")
    thread.start()
    assert "lingering" in " ".join(leftovers(before, 0))
    go_on.set()
    thread.join()


def test_a_process_is_reported_and_ended(before):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (left,) = leftovers(before, 0)
    assert left.startswith(f"child process: {child.pid} ")
    assert is_gone(child.pid)
    child.wait()


@pytest.mark.parametrize("method", START_METHODS)
def test_a_pool_is_reported_and_ended(before, method):
    """It puts no new workers in the place of those that are killed."""
    pool = TaskPool(2, processes=2, context=method)
    pool.run()
    pids = pool.get_worker_pids()
    busy = pool.apply_async(time.sleep, (60,))
    wait_until(lambda: busy.worker_pid, DEADLINE)
    found = " ".join(leftovers(before, 0))
    assert all(f"child process: {pid} " in found for pid in pids)
    assert all(map(is_gone, pids))
    with pytest.raises(PoolTerminated):
        pool.apply_async(tasks.nothing)
    del pool, busy
    assert leftovers(before, 1) == []


SUITE = """
import os, signal, subprocess, sys, time
import pytest
from celery_pool import TaskPool

kept = []

def test_that_fails():
    pool = TaskPool(2, processes=2, context="fork")
    pool.run()
    kept.append(pool)
    pool.apply_async(os.abort).wait(10)
    assert not "as it should"

def test_after_one_that_fails():
    assert not pytest.importorskip("guards").descendants()

def test_that_leaks():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))

def test_after_one_that_leaks():
    assert not pytest.importorskip("guards").descendants()
"""


def test_a_failure_costs_one_test(tmp_path):
    """Stacks of children that crash are shown where something has failed, and nowhere else."""
    (tmp_path / "test_some.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-c", os.devnull, "-v", tmp_path],
        env=script_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE * 4,
        check=False,
    )
    print(done.stdout)
    assert "1 failed, 3 passed, 1 error" in done.stdout
    assert "test_that_fails FAILED" in done.stdout
    assert "test_that_leaks ERROR" in done.stdout
    assert done.stdout.count("Fatal Python error: Aborted") == 1
    assert "Fatal Python error" not in done.stderr
