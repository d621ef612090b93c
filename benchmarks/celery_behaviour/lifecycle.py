"""Processes that start, are replaced, and restarted."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress

from celery_run import Run, run_alone
from figures import Figures
from guards import wait_until


def finished(worker: Run, tasks: int, deadline: float) -> Figures:
    """How many of so many tasks have ended when the time is up, or how long they took."""
    start = time.perf_counter()
    with suppress(AssertionError):
        wait_until(lambda: worker.results() >= tasks, deadline)
    done = worker.results()
    killed = len(re.findall(r"exited with 'signal 9|died: killed by SIGKILL", worker.log()))
    return {"done": done, "seconds": time.perf_counter() - start, "killed": killed}


def slow_initializer(pool: str) -> Figures:
    """worker_process_init takes 5 s; two tasks a process, eight tasks, 40 s."""
    slow = {"CELERY_TEST_INIT_SLEEP": "5"}
    options = ("--max-tasks-per-child", "2")
    with run_alone(pool, 2, *options, environment=slow) as worker:
        for number in range(8):
            worker.send("add", number, 0)
        return finished(worker, 8, 40)


def lock_in_the_main_process(pool: str) -> Figures:
    """A thread of the main process holds a lock half of the time, which each process takes in
    worker_process_init; a task a process, 30 tasks, 46 s."""
    locked = {"CELERY_TEST_INIT_LOCK": "1"}
    options = ("--max-tasks-per-child", "1")
    with run_alone(pool, 2, *options, environment=locked) as worker:
        for number in range(30):
            worker.send("add", number, 0)
        return finished(worker, 30, 46)


def pool_restart(pool: str) -> Figures:
    """Two processes, a task of 5 s in one; `pool_restart`, and pings and short tasks during the
    6 s after it: the longest that one of them waits."""
    settings = {"worker_pool_restarts": True}
    with run_alone(pool, 2, settings=settings) as worker:
        long = worker.send("announce", 5, "long")
        worker.began("long")
        waits: list[float] = []
        pings = threading.Thread(target=ping_for, args=(worker, 6.0, waits))
        worker.app.control.broadcast("pool_restart", destination=[worker.name])
        pings.start()
        tasks = []
        end = time.monotonic() + 6
        while time.monotonic() < end:
            start = time.perf_counter()
            value = worker.outcome(worker.send("add", 1, 1))
            assert value == 2, value
            tasks.append(time.perf_counter() - start)
        pings.join()
        value = worker.outcome(long)
        fate = "ran to its end" if isinstance(value, int) else type(value).__name__
        return {"seconds": max(waits), "task seconds": max(tasks), "the long task": fate}


def ping_for(worker: Run, seconds: float, waits: list[float]) -> None:
    end = time.monotonic() + seconds
    inspect = worker.app.control.inspect([worker.name], timeout=10.0)
    while time.monotonic() < end:
        start = time.perf_counter()
        assert inspect.ping()
        waits.append(time.perf_counter() - start)


def log_files(pool: str) -> Figures:
    """Files of `--logfile=%i.log`, two processes, two tasks each, 14 tasks."""
    options = ("--max-tasks-per-child", "2", "--logfile=at-%i.log")
    with run_alone(pool, 2, *options) as worker:
        worker.outcomes([worker.send("log", "here") for _ in range(14)])
        return {"files": len(list(worker.folder.glob("at-*.log")))}


def recycled(pool: str, start_method: str, tasks: int) -> Figures:
    """Tasks a second where each has a fresh process."""
    settings = {"worker_pool_start_method": start_method}
    options = ("--max-tasks-per-child", "1")
    with run_alone(pool, 2, *options, settings=settings) as worker:
        worker.outcome(worker.send("add", 1, 1))
        start = time.perf_counter()
        values = worker.outcomes([worker.send("pid") for _ in range(tasks)], 120)
        took = time.perf_counter() - start
        assert len({*values}) == tasks
        return {"rate": tasks / took}


def recycled_fork(pool: str) -> Figures:
    return recycled(pool, "fork", 60)


def recycled_spawn(pool: str) -> Figures:
    return recycled(pool, "spawn", 40)
