"""What becomes of tasks whose process dies, or is to be ended."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from contextlib import suppress

from celery_run import Run, run_alone
from figures import Figures

#: acks_late tasks and what they need to come back after a kill.
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}


def killed(pool: str) -> Figures:
    """Seconds from SIGKILL to a FAILURE that the client sees: nine times, one after the other."""
    with run_alone(pool, 2) as worker:
        return spread([until_failure(worker) for _ in range(9)])


def killed_in_thread_mode(pool: str) -> Figures:
    """The same over a broker without an event loop, three times."""
    with run_alone(pool, 2, broker="filesystem") as worker:
        return spread([until_failure(worker) for _ in range(3)])


def spread(seconds: list[float]) -> Figures:
    return {"seconds": statistics.median(seconds), "longest": max(seconds)}


def until_failure(worker: Run) -> float:
    """How long after its process has got SIGKILL the client learns of a task's failure."""
    key = f"killed {time.monotonic()}"
    result = worker.send("announce", 60, key)
    pid = int(worker.began(key)[0])
    start = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    error = worker.outcome(result, 60)
    took = time.perf_counter() - start
    assert type(error).__name__ == "WorkerLostError", error
    return took


def wrongly_revoked(pool: str) -> Figures:
    """A task takes no notice of revoke(terminate); the next one in that process is killed."""
    with run_alone(pool, 1) as worker:
        first = worker.send("swallow", 8, "first")
        worker.began("first")
        worker.app.control.revoke(first.id, terminate=True)
        second = worker.send("kill_me", signal.SIGKILL, 0.5)
        error = worker.outcome(second)
        ended = b"its end" in worker.redis().lrange("first", 0, -1)
        return {
            "the other task": type(error).__name__,
            "the revoked one": "ran to its end" if ended else "ended",
        }


def late_under_kills(pool: str, tasks: int = 1200) -> Figures:
    """acks_late tasks of 10 ms in four processes, one of which is killed every 250 ms."""
    rng = random.Random(1)
    with run_alone(pool, 4, settings=LATE) as worker:
        store = worker.redis()
        start = time.perf_counter()
        for number in range(tasks):
            worker.send("count", "late", str(number), 0.01)
        kills = 0
        end = time.monotonic() + 120
        next_kill = time.monotonic() + 0.25
        while time.monotonic() < end:
            if time.monotonic() >= next_kill:
                next_kill += 0.25
                with suppress(ProcessLookupError, IndexError):
                    os.kill(rng.choice(worker.processes()), signal.SIGKILL)
                    kills += 1
            if store.dbsize() > tasks:  # a key a result, and the counts
                break
            time.sleep(0.005)
        took = time.perf_counter() - start
        return {"done": worker.results(), "seconds": took, "kills": kills}


def hard_limit_in_c(pool: str) -> Figures:
    """Seconds after which a task in C code, with a hard limit of 1 s, is reported."""
    with run_alone(pool, 2) as worker:
        took = []
        for attempt in range(3):
            key = f"in C {attempt}"
            result = worker.send("in_c", key, time_limit=1)
            began = float(worker.began(key)[0])
            error = worker.outcome(result)
            took.append(time.time() - began)
            assert type(error).__name__ == "TimeLimitExceeded", error
        return {"seconds": statistics.median(took)}


def poison_pills(pool: str, pills: int = 130) -> Figures:
    """Tasks that kill their process, then a good one: seconds until that is done."""
    with run_alone(pool, 4) as worker:
        start = time.perf_counter()
        for _ in range(pills):
            worker.send("kill_me", ignore_result=True)
        good = worker.send("add", 1, 2)
        value = worker.outcome(good, 120)
        took = time.perf_counter() - start
        assert value == 3, value
        return {"seconds": took}
