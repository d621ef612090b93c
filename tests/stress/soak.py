"""Soak: a pool under mixed load, with workers killed and stopped all the time, resized, limited
and recycled; afterwards every task has exactly one outcome and nothing is left behind.

    python tests/stress/soak.py --seconds 60 --kills-per-second 10

Prints a summary; the exit status says whether everything held.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import soak_tasks
from celery_pool import (
    PoolFull,
    SoftTimeLimitExceeded,
    TaskCancelled,
    TaskExpired,
    TaskPool,
    TaskTerminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from guards import Belongings, adopt_orphans, descendants, leftovers
from usage import resident_kib

MOST_TASKS = 1 << 26
#: Outcomes by class; anything else is a defect.
EXPECTED = {
    ValueError: "task errors",
    WorkerLostError: "lost",
    TaskCancelled: "cancelled",
    TaskExpired: "expired",
    TaskTerminated: "terminated",
    TimeLimitExceeded: "time limits",
    SoftTimeLimitExceeded: "soft time limits",
}


class Soak:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.numbers = itertools.count()
        self.submitted = 0
        self.refused = 0  # PoolFull
        self.calls = bytearray()  # callbacks and errbacks a task
        self.outcomes: Counter[str] = Counter()
        self.chaos: Counter[str] = Counter()
        self.problems: list[str] = []
        self.recent: deque[Any] = deque(maxlen=200)
        self.lock = threading.Lock()
        self.stop = threading.Event()

    # ---- what is submitted ----

    def draw(self, rng: random.Random) -> tuple[str, int, bytes, dict[str, Any]]:
        """(kind, size, argument, options of apply_async)"""
        dice = rng.random()
        if dice < 0.85:
            return "nothing", 0, b"", {}
        if dice < 0.90:
            return "error", 0, b"", {}
        if dice < 0.97:
            size = rng.choice((1, 100, 1000, 10_000, 60_000, 70_000, 200_000, 1_000_000))
            if rng.random() < 0.01:
                size = 20_000_000
            if rng.random() < 0.5:
                return "take", size, soak_tasks.PATTERN[:size], {}
            return "give", size, b"", {}
        if dice < 0.98:
            return "work", rng.randrange(2000), b"", {}
        if dice < 0.99:
            return "sleep", rng.randrange(3000), b"", {}
        if dice < 0.993:
            return "sleep", 500, b"", {"expires": rng.random() / 100}
        if dice < 0.995:
            return "sleep", rng.randrange(20_000), b"", {"soft_timeout": 0.01}
        if dice < 0.997:
            return "work", rng.randrange(20_000), b"", {"timeout": 0.01}
        if dice < 0.999:
            return "sleep", 100, b"", {"block": False}
        if dice < 0.9995:
            return "exit", rng.randrange(4), b"", {}
        return "child", rng.randrange(100_000), b"", {}

    def submit(self, pool: TaskPool, path: str, seed: int) -> None:
        rng = random.Random(seed)
        while not self.stop.is_set():
            kind, size, data, limits = self.draw(rng)
            with self.lock:
                number = next(self.numbers)
                self.calls.append(0)
            try:
                result = pool.apply_async(
                    soak_tasks.run,
                    (path, number, kind, size, data),
                    callbacks=self.succeeded,
                    errbacks=self.failed,
                    meta=(number, kind, size),
                    **limits,
                )
            except PoolFull:
                with self.lock:
                    self.refused += 1
                    self.calls[number] = 1  # it has had its outcome
                continue
            except BaseException as error:
                self.problems.append(f"apply_async raised {error!r}")
                return
            with self.lock:
                self.submitted += 1
            if rng.random() < 0.05:
                self.recent.append(result)

    # ---- callbacks: one at a time ----

    def succeeded(self, value: Any, meta: Any) -> None:
        number, kind, size = meta
        self.calls[number] += 1
        self.outcomes["succeeded"] += 1
        if value != (number, soak_tasks.PATTERN[:size] if kind == "give" else b""):
            self.problems.append(f"task {meta} returned {str(value)[:100]}")

    def failed(self, error: BaseException, meta: Any) -> None:
        self.calls[meta[0]] += 1
        name = EXPECTED.get(type(error))
        self.outcomes[name or type(error).__name__] += 1
        if name is None:
            self.problems.append(f"task {meta} failed with {error!r}"[:500])

    # ---- what happens to it ----

    def disturb(self, pool: TaskPool) -> None:
        """Kills, stops, ends single tasks."""
        rng = random.Random(self.options.seed + 1000)
        while not self.stop.wait(rng.expovariate(self.options.kills_per_second)):
            pids = pool.get_worker_pids()
            if not pids:
                continue
            pid = rng.choice(pids)
            dice = rng.random()
            # it may be gone already
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if dice < 0.7:
                    os.kill(pid, signal.SIGKILL)
                    self.chaos["SIGKILL"] += 1
                elif dice < 0.8:
                    self.pause(pid, rng.random() / 20)
                    self.chaos["SIGSTOP, SIGCONT"] += 1
                elif dice < 0.9:
                    os.kill(pid, signal.SIGSTOP)
                    self.stop.wait(rng.random() / 50)
                    os.kill(pid, signal.SIGKILL)
                    self.chaos["SIGSTOP, SIGKILL"] += 1
                elif dice < 0.92:
                    self.kill_template(pid)
            with contextlib.suppress(IndexError):
                result = self.recent.pop()
                verb = rng.choice(("cancel", "cancel", "terminate"))
                if getattr(result, verb)():
                    self.chaos[verb] += 1

    def pause(self, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            self.stop.wait(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_template(self, worker: int) -> None:
        stat = Path(f"/proc/{worker}/stat").read_text()
        template = int(stat.rpartition(")")[2].split()[1])
        if template != os.getpid() and template in descendants():
            os.kill(template, signal.SIGKILL)
            self.chaos["SIGKILL of the template"] += 1

    def resize(self, pool: TaskPool) -> None:
        rng = random.Random(self.options.seed + 2000)
        least, most = 1, self.options.processes + 2
        while not self.stop.wait(rng.random()):
            if rng.random() < 0.3:
                pool.limit = rng.choice((most, 50, 1000, 5000))
                self.chaos["limit"] += 1
            elif rng.random() < 0.5 and pool.processes < most:
                pool.grow(rng.randint(1, most - pool.processes))
                self.chaos["grow"] += 1
            elif pool.processes > least:
                pool.shrink(rng.randint(1, pool.processes - least))
                self.chaos["shrink"] += 1

    # ---- all of it ----

    def run(self) -> dict[str, Any]:
        options = self.options
        log = logging.Logger("soak")
        log.addHandler(logging.NullHandler())
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "marks")
            Path(path).touch()
            os.truncate(path, MOST_TASKS)
            belongings = Belongings.now()
            before = resident_kib()
            started = time.monotonic()
            pool = TaskPool(
                1000,
                logger=log,
                processes=options.processes,
                context=options.start_method,
                callbacks_in=options.callbacks_in,
                maxtasksperchild=options.maxtasksperchild,
                max_memory_per_child=400_000,
                max_restarts=1_000_000,
                kill_grace=0.2,
            )
            pool.run()
            threads = [
                threading.Thread(
                    target=self.guarded, args=(self.submit, pool, path, options.seed + i)
                )
                for i in range(options.threads)
            ]
            threads += [
                threading.Thread(target=self.guarded, args=(verb, pool))
                for verb in (self.disturb, self.resize)
            ]
            for thread in threads:
                thread.start()
            self.stop.wait(options.seconds)
            self.stop.set()
            for thread in threads:
                thread.join(60)
                if thread.is_alive():
                    self.problems.append(f"{thread} does not end")
            load = time.monotonic() - started
            if options.callbacks_in == "caller":
                while pool.wait_for_result():
                    pass
            statistics = self.settle(pool)
            pool.close()
            if not pool.join(60):
                self.problems.append(f"join() has not ended: {pool!r}")
                pool.terminate()
            self.check(path, statistics)
            self.recent.clear()
            del pool, threads
            gc.collect()
            grown = resident_kib() - before
            if grown > options.memory * 1024:
                self.problems.append(f"the parent has grown by {grown} KiB")
            self.problems += [f"left behind: {text}" for text in leftovers(belongings)]
        return {
            "seconds": round(load, 1),
            "seed": options.seed,
            "start method": options.start_method,
            "callbacks in": options.callbacks_in,
            "submitted": self.submitted,
            "tasks a second": round(self.submitted / load),
            "refused (PoolFull)": self.refused,
            "outcomes": dict(self.outcomes.most_common()),
            "disturbances": dict(self.chaos.most_common()),
            "exits": statistics.exits,
            "parent grown by KiB": grown,
            "problems": self.problems,
        }

    def guarded(self, verb: Any, *args: Any) -> None:
        try:
            verb(*args)
        except BaseException as error:
            self.problems.append(f"{verb.__name__} raised {error!r}")
            raise

    def settle(self, pool: TaskPool) -> Any:
        """Everything has its end, and the pool its size."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = pool.statistics()
            # with maxtasksperchild a successor may stand ready for each worker
            at_size = pool.processes <= found.workers <= 2 * pool.processes
            if not found.in_flight and not found.waiting_callbacks and at_size:
                return found
            time.sleep(0.01)
        self.problems.append(f"the pool of {pool.processes} does not settle: {found}")
        return found

    def check(self, path: str, statistics: Any) -> None:
        problems = self.problems
        ended = sum(self.outcomes.values())
        if not self.submitted == ended == statistics.submitted:
            problems.append(
                f"{self.submitted} submitted, {ended} ended, {statistics.submitted} counted"
            )
        if any(count != 1 for count in self.calls):
            wrong = [(i, count) for i, count in enumerate(self.calls) if count != 1]
            problems.append(f"callbacks not called exactly once: {len(wrong)}: {wrong[:5]}")
        outcomes = self.outcomes
        for mine, its in (
            (outcomes["succeeded"], statistics.succeeded),
            (ended - outcomes["succeeded"], statistics.failed),
            (outcomes["lost"], statistics.lost),
            (outcomes["cancelled"], statistics.cancelled),
            (outcomes["expired"], statistics.expired),
            (0, statistics.callback_errors),
        ):
            if mine != its:
                problems.append(f"{mine} seen by callbacks, {its} counted: {statistics}")
        marks = Path(path).read_bytes()[: len(self.calls)]
        if marks.count(0) + marks.count(1) != len(marks):
            problems.append(f"{len(marks) - marks.count(0) - marks.count(1)} tasks started twice")
        started, must = marks.count(1), outcomes["succeeded"] + outcomes["task errors"]
        if not must <= started <= ended - outcomes["cancelled"] - outcomes["expired"]:
            problems.append(f"{started} tasks started, {must} came to their end")


def markdown(summary: dict[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    for key, value in summary.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k}: {v:,}" for k, v in value.items())
        elif isinstance(value, list):
            text = "; ".join(value) or "none"
        else:
            text = f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"| {key} | {text} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--start-method", default="fork")
    parser.add_argument("--callbacks-in", choices=("any", "reaper", "caller"), default="any")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=3, help="that submit")
    parser.add_argument("--kills-per-second", type=float, default=10)
    parser.add_argument("--maxtasksperchild", type=int, default=500)
    parser.add_argument("--memory", type=int, default=200, help="MiB that the parent may grow by")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    adopt_orphans()
    summary = Soak(options).run()
    print(json.dumps(summary) if options.json else markdown(summary))
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
