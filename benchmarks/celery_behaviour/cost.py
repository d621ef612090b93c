"""What a task costs, and what the processes take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery_run import POOLS, run_alone
from figures import Figures
from guards import wait_until
from support import script_environment

OURSELVES = Path(__file__).resolve().parent


def memory(pool: str, start_method: str) -> Figures:
    """MiB of all processes of a worker with eight children (PSS: shared pages in parts)."""
    settings = {"worker_pool_start_method": start_method}
    with run_alone(pool, 8, settings=settings) as worker:
        worker.outcomes([worker.send("sleep", 0.2) for _ in range(32)])
        total = sum(pss(pid) for pid in worker.family())
        return {"MiB": total / 1024, "processes": len(worker.family())}


def pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


def memory_fork(pool: str) -> Figures:
    return memory(pool, "fork")


def memory_spawn(pool: str) -> Figures:
    return memory(pool, "spawn")


def pool_alone(pool: str) -> Figures:
    """CPU of the parent, in µs a task: the pool on kombu's event loop, without a broker."""
    command = [sys.executable, str(OURSELVES / "pool_alone.py"), POOLS[pool]]
    with tempfile.TemporaryDirectory() as folder:  # its processes leave notes where they run
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=script_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def over_redis(pool: str, tasks: int = 4000) -> Figures:
    """No-op tasks, two processes: tasks a second of a full queue, the main process's CPU in µs
    a task, and ms from sending a task to its result, one after the other."""
    with run_alone(pool, 2) as worker:
        worker.outcomes([worker.send("add", 1, 1) for _ in range(20)])
        waits = []
        for _ in range(200):
            start = time.perf_counter()
            worker.outcome(worker.send("add", 1, 1))
            waits.append(time.perf_counter() - start)
        assert worker.control("cancel_consumer", queue="celery")
        for _ in range(tasks):
            worker.send("nothing")
        assert worker.waiting() == tasks
        cpu, start = cpu_seconds(worker.pid), time.perf_counter()
        worker.app.control.add_consumer("celery", destination=[worker.name])
        wait_until(lambda: not worker.waiting(), 120)
        took = time.perf_counter() - start
        cpu = cpu_seconds(worker.pid) - cpu
        return {
            "rate": tasks / took,
            "parent": cpu / tasks * 1e6,
            "latency": statistics.median(waits) * 1e3,
        }


def cpu_seconds(pid: int) -> float:
    """Of all threads of one process."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
