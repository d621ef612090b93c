"""Soak: a pool under mixed load, with workers killed and stopped all the time, resized, limited,
recycled and renewed, with outages and signals to the process group; afterwards every task has
exactly one outcome and nothing is left behind.

    python tests/stress/soak.py --seconds 60 --disturbances-per-second 10

soak_load.py has the table of tasks, soak_chaos.py that of disturbances, soak_board.py what workers
report. Prints a summary; the exit status says whether everything held.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import soak_tasks
from celery_pool import TaskPool, TimeLimitExceeded
from guards import Belongings, adopt_orphans, leftovers
from soak_board import MOST_TASKS, Board
from soak_chaos import DISTURBANCES, GROUP_SIGNALS, Chaos, spares
from soak_load import Load, name_of
from usage import resident_kib

#: Seconds more until each disturbance has been done once.
PATIENCE = 60.0


class Events(logging.Handler):
    """What the pool's log says, counted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen[getattr(record, "event", record.getMessage())] += 1


class Soak:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.events = Events()
        self.started = 0
        self.broken: list[BaseException] = []
        self.whole = True  # nobody has ended it before its time
        self.limits: Counter[str] = Counter()  # that the pool has told of

    def run(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "board")
            board = Board.create(path)
            try:
                belongings = Belongings.now()
                before = resident_kib()
                self.load = Load(board, path, MOST_TASKS)
                summary = self.run_on(board, path)
                gc.collect()
                grown = resident_kib() - before
                if grown > self.options.memory * 1024:
                    self.load.problems.append(f"the parent has grown by {grown} KiB")
                self.load.problems += [f"left behind: {text}" for text in leftovers(belongings)]
                self.load.problems += [f"a worker: {text}" for text in board.complaints()[:10]]
            finally:
                board.close()
        return {**summary, "parent grown by KiB": grown, "problems": self.load.problems}

    def run_on(self, board: Board, path: str) -> dict[str, Any]:
        options, load = self.options, self.load
        begin = time.monotonic()
        pool = self.make_pool(path)
        chaos = Chaos(pool, board, load, options.processes)
        board.allowed = pool.processes
        handlers = {
            number: signal.signal(number, functools.partial(self.signalled, chaos))
            for number in GROUP_SIGNALS
        }
        pool.run()
        submitters = [
            self.thread(load.submit, pool, options.seed + i) for i in range(options.threads)
        ]
        others = [
            self.thread(chaos.disturb, thread, options.disturbances_per_second / 2, seed)
            for seed, thread in enumerate(DISTURBANCES, options.seed + 1000)
        ]
        foreign = self.thread(load.end_foreign)
        end = begin + options.seconds
        while time.monotonic() < (end + PATIENCE if chaos.owed() else end):
            if load.stop.wait(0.1):  # in steps: this thread handles the signals
                break
        load.stop.set()
        for thread in (*submitters, *others):
            self.join(thread)
        seconds = time.monotonic() - begin
        load.stop_foreign()
        self.join(foreign)
        if options.callbacks_in == "caller":
            while pool.wait_for_result():
                pass
        statistics = self.settle(pool)
        pool._core.check_invariants()
        pool.close()
        if not pool.join(60):
            load.problems.append(f"join() has not ended: {pool!r}")
            pool.terminate()
        pool._core.check_invariants()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        self.check(statistics, chaos)
        load.recent.clear()
        outcomes = {name_of(outcome): count for outcome, count in load.outcomes().most_common()}
        return {
            "seconds": round(seconds, 1),
            "seed": options.seed,
            "start method": options.start_method,
            "callbacks in": options.callbacks_in,
            "submitted": statistics.submitted,
            "tasks a second": round(statistics.submitted / seconds),
            "outcomes": outcomes,
            "disturbances": dict(chaos.done.most_common()),
            "exits": statistics.exits,
            "log": dict(self.events.seen.most_common()),
            "overtaken for ms at most": round(1000 * load.turns.longest),
        }

    def make_pool(self, path: str) -> TaskPool:
        options = self.options
        log = logging.Logger("soak")
        log.addHandler(self.events)
        return TaskPool(
            1000,
            logger=log,
            processes=options.processes,
            context=options.start_method,
            callbacks_in=options.callbacks_in,
            template_initializer=soak_tasks.load,
            template_initargs=(path,),
            initializer=soak_tasks.begin,
            initargs=(path,),
            finalizer=functools.partial(soak_tasks.end, path),
            leave_on=soak_tasks.Leave,
            soft_limit_error=soak_tasks.OutOfTime,
            soft_limit_repeat=0.05,
            on_start=self.has_started,
            on_broken=self.broken.append,
            on_soft_timeout=lambda tid: self.limits.update(soft=1),
            on_timeout=lambda tid: self.limits.update(hard=1),
            maxtasksperchild=options.maxtasksperchild,
            max_memory_per_child=250_000,
            memory_kill=450_000,
            max_restarts=1_000_000,
            kill_grace=0.2,
            hard_grace=0.1,
        )

    def has_started(self) -> None:
        self.started += 1

    def signalled(self, chaos: Chaos, number: int, frame: Any) -> None:
        """The program's handler: those that the group did not get from us end the soak."""
        if chaos.received[number] < chaos.signalled[number]:
            chaos.received[number] += 1
        else:
            self.whole = False
            self.load.stop.set()

    def thread(self, verb: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=self.guarded, args=(verb, *args), name=verb.__name__)
        thread.start()
        return thread

    def guarded(self, verb: Any, *args: Any) -> None:
        try:
            verb(*args)
        except BaseException as error:
            self.load.problems.append(f"{verb.__name__} raised {error!r}")
            raise

    def join(self, thread: threading.Thread) -> None:
        thread.join(60)
        if thread.is_alive():
            self.load.problems.append(f"{thread} does not end")

    def settle(self, pool: TaskPool) -> Any:
        """Everything has its end, and the pool its size."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = pool.statistics()
            spare = found.workers - pool.processes
            at_size = 0 <= spare <= spares(pool.processes)
            if not found.in_flight and not found.waiting_callbacks and at_size:
                return found
            time.sleep(0.01)
        self.load.problems.append(f"the pool of {pool.processes} does not settle: {found}")
        return found

    def check(self, statistics: Any, chaos: Chaos) -> None:
        load, exits, events = self.load, statistics.exits, self.events.seen
        load.check(statistics)
        hard = load.outcomes()[TimeLimitExceeded]
        for what, wanted, found in (
            ("calls of on_start", 1, self.started),
            ("calls of on_broken", 0, len(self.broken)),
            ("soft limits told", exits.get("soft_limit", 0), self.limits["soft"]),
            ("soft limits in the log", exits.get("soft_limit", 0), events["soft_limit"]),
            ("hard limits told", hard, self.limits["hard"]),
            ("hard limits in the log", hard, events["hard_limit"]),
            ("workers that wrote garbage", 0, events["garbage"]),
            ("signals to the group", chaos.signalled, chaos.received),
            ("disturbances not done", set(), chaos.owed() if self.whole else set()),
        ):
            if wanted != found:
                load.problems.append(f"{what}: {found}, not {wanted}")


def lead_a_group() -> None:
    """This process and what it starts are a process group of their own: it is sent signals."""
    if os.getpgrp() == os.getpid():
        return
    os.setpgid(0, 0)
    if sys.stdin.isatty():  # so that Ctrl-C comes here still
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(sys.stdin.fileno(), os.getpid())
        signal.signal(signal.SIGTTOU, before)


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
    parser.add_argument("--threads", type=int, default=4, help="that submit")
    parser.add_argument("--disturbances-per-second", type=float, default=15)
    parser.add_argument("--maxtasksperchild", type=int, default=500)
    parser.add_argument("--memory", type=int, default=200, help="MiB that the parent may grow by")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    adopt_orphans()
    lead_a_group()
    summary = Soak(options).run()
    print(json.dumps(summary) if options.json else markdown(summary))
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
