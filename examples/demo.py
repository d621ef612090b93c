"""The main job on real input: every line of the standard library through `token_stats`.

    python examples/demo.py

1. celery_pool, multiprocessing.Pool and concurrent.futures side by side: the same lines, the same
   number in flight, a callback for each task that keeps its result, and the same results. This part
   takes the first COMPARED lines, files in the order of their paths, so that the slowest contender
   is done in time; `--compare 0` takes all of them.
2. All lines on celery_pool while a worker gets SIGKILL every 200 ms: what became of each task.

The tables are Markdown. The exit status is 1 if results differ, a task never ended, or the counts
do not add up.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import os
import platform
import random
import signal
import sys
import sysconfig
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from token_stats import token_stats

from celery_pool import TaskPool, WorkerLostError

COMPARED = 60_000  # lines of part 1
IN_FLIGHT = 1_000
WARM_UP = 500  # lines before the clock starts
KILL_EVERY = 0.2  # seconds

Keep = Callable[[dict[str, float], int], None]  # takes a result and the index of its line
Run = Callable[[Sequence[str], Keep], None]  # submits all lines, returns when all results are kept


# ---- The input


class Lines(list[str]):
    """The lines of many files, and where each comes from."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(
            path
            for path in root.rglob("*.py")
            if not {"site-packages", "dist-packages"} & set(path.parts)
        )
        self._root = root
        self._firsts: list[int] = []
        for path in self.files:
            self._firsts.append(len(self))
            self.extend(path.read_text(encoding="utf-8", errors="replace").splitlines())

    def locate(self, index: int) -> str:
        """file:line of the line with this index."""
        place = bisect_right(self._firsts, index) - 1
        return f"{self.files[place].relative_to(self._root)}:{index - self._firsts[place] + 1}"


# ---- Part 1: the contenders


@contextmanager
def celery_pool(processes: int) -> Iterator[Run]:
    with TaskPool(IN_FLIGHT, processes=processes) as pool:

        def run(lines: Sequence[str], keep: Keep) -> None:
            for index, line in enumerate(lines):
                pool.apply_async(token_stats, (line,), callbacks=keep, meta=index)
            while pool.wait_for_result() or pool.statistics().waiting_callbacks:
                pass

        yield run


@contextmanager
def multiprocessing_pool(processes: int) -> Iterator[Run]:
    room = threading.Semaphore(IN_FLIGHT)
    with multiprocessing.Pool(processes) as pool:

        def run(lines: Sequence[str], keep: Keep) -> None:
            for index, line in enumerate(lines):

                def callback(result: dict[str, float], index: int = index) -> None:
                    keep(result, index)
                    room.release()

                room.acquire()
                pool.apply_async(token_stats, (line,), callback=callback)
            _wait_until_free(room)

        yield run
        pool.close()
        pool.join()


@contextmanager
def process_pool_executor(processes: int) -> Iterator[Run]:
    room = threading.Semaphore(IN_FLIGHT)
    with ProcessPoolExecutor(processes) as executor:

        def run(lines: Sequence[str], keep: Keep) -> None:
            for index, line in enumerate(lines):

                def callback(future: Future[dict[str, float]], index: int = index) -> None:
                    keep(future.result(), index)
                    room.release()

                room.acquire()
                executor.submit(token_stats, line).add_done_callback(callback)
            _wait_until_free(room)

        yield run


def _wait_until_free(room: threading.Semaphore) -> None:
    """Until nothing is in flight."""
    for _ in range(IN_FLIGHT):
        room.acquire()
    room.release(IN_FLIGHT)


CONTENDERS = {
    "celery_pool.TaskPool": celery_pool,
    "multiprocessing.Pool": multiprocessing_pool,
    "concurrent.futures.ProcessPoolExecutor": process_pool_executor,
}


def compare(lines: Sequence[str], processes: int) -> tuple[list[Any], bool]:
    """Runs the contenders and prints their table; returns the results, and whether all agree."""
    rows = []
    reference: list[Any] = []
    own_rate = 0.0  # of the first contender
    digests = set()
    for name, contender in CONTENDERS.items():
        results: list[Any] = [None] * len(lines)

        def keep(result: dict[str, float], index: int, results: list[Any] = results) -> None:
            results[index] = result

        with contender(processes) as run:
            run(lines[:WARM_UP], keep)
            begin = time.perf_counter()
            run(lines, keep)
            seconds = time.perf_counter() - begin
        rate = len(lines) / seconds
        own_rate = own_rate or rate
        digest = hashlib.sha256(repr(results).encode()).hexdigest()
        digests.add(digest)
        reference = reference or results
        rows.append(
            (name, f"{seconds:.1f} s", f"{rate:,.0f}", f"{own_rate / rate:.1f}", digest[:12])
        )
    print_table(
        ("pool", "time", "lines a second", "celery_pool is faster by", "digest of the results"),
        rows,
    )
    return reference, len(digests) == 1


# ---- Part 2: under fire


class Killer(threading.Thread):
    """Sends SIGKILL to a worker of the pool now and then."""

    def __init__(self, pool: TaskPool) -> None:
        super().__init__(name="killer")
        self.killed = 0
        self._pool = pool
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(KILL_EVERY):
            pids = self._pool.get_worker_pids()
            if pids:
                try:
                    os.kill(random.choice(pids), signal.SIGKILL)
                    self.killed += 1
                except ProcessLookupError:
                    pass  # it died before, and its replacement is not there yet

    def stop(self) -> None:
        self._enough.set()
        self.join()


def survive(
    lines: Sequence[str], locate: Callable[[int], str], reference: Sequence[Any], processes: int
) -> bool:
    """Runs all lines while workers are killed; returns whether the outcomes add up."""
    outcomes = bytearray(len(lines))  # how many outcomes each task got: one, if all is well
    lost: list[tuple[int, WorkerLostError]] = []
    failed: list[BaseException] = []
    wrong = 0

    def on_result(result: dict[str, float], index: int) -> None:
        nonlocal wrong
        outcomes[index] += 1
        if index < len(reference) and result != reference[index]:
            wrong += 1

    def on_error(error: BaseException, index: int) -> None:
        outcomes[index] += 1
        if isinstance(error, WorkerLostError):
            lost.append((index, error))
        else:
            failed.append(error)

    begin = time.perf_counter()
    quiet = logging.getLogger("celery_pool.demo")
    quiet.setLevel(logging.ERROR)  # workers die on purpose
    with TaskPool(IN_FLIGHT, processes=processes, logger=quiet) as pool:
        killer = Killer(pool)
        killer.start()
        try:
            for index, line in enumerate(lines):
                pool.apply_async(token_stats, (line,), None, on_result, on_error, None, index)
            while pool.wait_for_result():
                pass
        finally:
            killer.stop()
    seconds = time.perf_counter() - begin

    submitted = len(lines)
    never = outcomes.count(0)
    once = outcomes.count(1)
    finished = submitted - never - len(lost) - len(failed)
    print_table(
        ("submitted", "finished", "lost by name", "never ended"),
        [(f"{submitted:,}", f"{finished:,}", f"{len(lost):,}", f"{never:,}")],
    )
    rate = submitted / seconds
    print(f"\n{killer.killed} workers killed in {seconds:.1f} s, {rate:,.0f} lines a second.")
    for index, error in lost[:3]:
        print(f"- {locate(index)}: {error}")
    if len(lost) > 3:
        print(f"- and {len(lost) - 3} more, each with its line")

    problems = {
        "tasks never ended": never,
        "tasks ended more than once": submitted - never - once,
        "tasks failed otherwise": len(failed),
        "results differ from those of part 1": wrong,
        "tasks were lost without a killed worker": max(0, len(lost) - killer.killed),
    }
    for problem, count in problems.items():
        if count:
            print(f"WRONG: {count:,} {problem}")
    return not any(problems.values())


# ---- The programme


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table; columns with letters in them to the left, others to the right."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = [cell[0].isalpha() for cell in table[-1]]
    rule = [
        ("-" * width if to_left else "-" * (width - 1) + ":")
        for width, to_left in zip(widths, left, strict=True)
    ]
    for row in [head, rule, *table[1:]]:
        cells = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ]
        print("|", " | ".join(cells), "|")


def usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Every line of the standard library through three process pools."
    )
    parser.add_argument(
        "--compare", type=int, default=COMPARED, metavar="N", help="lines of part 1; 0: all"
    )
    parser.add_argument(
        "--survive", type=int, default=0, metavar="N", help="lines of part 2; 0: all"
    )
    parser.add_argument(
        "--processes", type=int, default=usable_cpus(), metavar="N", help="workers of each pool"
    )
    options = parser.parse_args()

    lines = Lines(Path(sysconfig.get_path("stdlib")))
    print(
        f"Python {platform.python_version()} on {platform.system()}, {options.processes} workers, "
        f"{IN_FLIGHT:,} in flight; its standard library has {len(lines):,} lines in "
        f"{len(lines.files):,} files.\n"
    )

    compared = lines[: options.compare or None]
    print(f"1. The first {len(compared):,} lines, one task each:\n")
    reference, agreed = compare(compared, options.processes)
    print("\nAll results are the same." if agreed else "\nWRONG: the results differ.")

    survived = lines[: options.survive or None]
    print(
        f"\n2. {len(survived):,} lines on celery_pool, "
        f"a worker killed every {KILL_EVERY * 1000:.0f} ms:\n"
    )
    whole = survive(survived, lines.locate, reference, options.processes)
    return 0 if agreed and whole else 1


if __name__ == "__main__":
    sys.exit(main())
