"""Soak: a worker under mixed tasks, while its processes are killed, tasks revoked, the broker's
connections cut, the pool resized and restarted, and the worker, too; afterwards every task is
accounted for by what it has left in Redis.

    make soak-celery DURATION=3600 [ARGS="--pool prefork"]

Tasks are acknowledged late, and come back if their process is lost. So in the end

* each has one result: its own value, its own error, its limit, or that it was revoked or expired.
  Excepted is what Redis' own journal shows to be somebody else's doing (see `fate_of`): messages
  that were handed over while a connection was cut or the worker stopped, and never noted by kombu,
  which notes a message before the worker hears of it; results that Celery has overwritten;
* each that has a value or an error has begun; again no more often than something was disturbed;
* nothing is in the queue or unacknowledged, no process outlives its worker, and nothing is broken:
  a last task runs.

Prints a summary; the exit status says whether everything held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil

from celery_run import Run, run_alone
from guards import wait_until
from redis_journal import MARK, Event, Gone, Journal

#: Seconds after which Redis' messages are sent again if the worker that had them is gone.
REDELIVERY = 15
SETTINGS = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_pool_restarts": True,
    "broker_transport_options": {
        "visibility_timeout": REDELIVERY,
        "unacked_restore_throttle": 1,  # else every 100 seconds, and but ten
    },
}


@dataclass(frozen=True)
class Kind:
    """Tasks of one kind: how often they are drawn, and how they may end."""

    weight: int
    outcomes: set[str]
    options: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "value": Kind(80, {"value"}),
    "error": Kind(5, {"ValueError"}),
    "retry": Kind(5, {"value"}),
    "soft": Kind(2, {"SoftTimeLimitExceeded"}, {"soft_time_limit": 0.2}),
    "hard": Kind(1, {"TimeLimitExceeded"}, {"time_limit": 0.3}),
    "expires": Kind(2, {"value", "TaskRevokedError"}, {"expires": 0.5}),
    "revoke": Kind(5, {"value", "TaskRevokedError"}),
}


class Soak:
    def __init__(self, options: argparse.Namespace, run: Run) -> None:
        self.options = options
        self.run = run
        self.sent: dict[str, str] = {}  # by id: its kind
        self.chaos: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        self.without: dict[str, dict[str, str]] = {}  # a result: why, and their stories
        self.again = 0  # times that tasks began beyond their first
        self.stop = threading.Event()

    # ---- what is sent ----

    def send(self, seconds: float) -> None:
        rng = random.Random(self.options.seed)
        weights = [kind.weight for kind in KINDS.values()]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.problems:
            if self.run.waiting() > 100:
                time.sleep(0.02)
                continue
            for name in rng.choices([*KINDS], weights, k=20):
                tid = str(len(self.sent))
                self.sent[tid] = name
                kind = KINDS[name]
                self.run.send("soak", name, rng.random() / 30, task_id=tid, **kind.options)
                if name == "revoke":
                    number = rng.choice(("SIGTERM", "SIGKILL", "SIGQUIT"))
                    terminate = rng.random() < 0.7
                    self.run.app.control.revoke(tid, terminate=terminate, signal=number)

    # ---- what happens to it ----

    def disturb(self) -> None:
        rng = random.Random(self.options.seed + 1)
        acts = [self.kill] * 30 + [self.cut] * 6 + [self.pool_restart] * 3 + [self.resize] * 3
        acts += [self.warm_restart] * 2 + [self.sudden_restart]
        while not self.stop.wait(rng.expovariate(self.options.rate)):
            act = rng.choice(acts)
            name = act.__name__
            try:
                self.mark(f"{name} begins")
                act(rng)
                self.mark(f"{name} ends")
            except Exception as error:
                self.problems.append(f"{name} raised {error!r}"[:3000])
                return
            self.chaos[name] += 1

    def mark(self, text: str) -> None:
        """In Redis' journal."""
        self.run.redis().set(MARK, text)

    def kill(self, rng: random.Random) -> None:
        """SIGKILL to a process that runs tasks."""
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(rng.choice(self.run.processes()), signal.SIGKILL)

    def cut(self, rng: random.Random) -> None:
        """Redis closes the connections of the worker and its processes."""
        ours = {connection.laddr.port for connection in psutil.Process().net_connections("tcp")}
        store = self.run.redis()
        for client in store.client_list():
            if int(client["addr"].rpartition(":")[2]) not in ours:
                store.client_kill_filter(_id=client["id"])

    def pool_restart(self, rng: random.Random) -> None:
        self.run.app.control.broadcast("pool_restart", destination=[self.run.name])

    def resize(self, rng: random.Random) -> None:
        self.run.app.control.pool_grow(1, destination=[self.run.name])
        self.stop.wait(rng.random())
        self.run.app.control.pool_shrink(1, destination=[self.run.name])

    def warm_restart(self, rng: random.Random) -> None:
        self.restart(signal.SIGTERM)

    def sudden_restart(self, rng: random.Random) -> None:
        self.restart(signal.SIGKILL)

    def restart(self, number: int) -> None:
        """The main process's end, and a new worker."""
        self.run.stop(number)
        wait_until(lambda: not self.run.family(), 20.0, "the worker's processes have ended")
        self.run.start()

    # ---- all of it ----

    def go(self) -> dict[str, Any]:
        start = time.monotonic()
        disturber = threading.Thread(target=self.disturb)
        disturber.start()
        try:
            self.send(self.options.seconds)
        finally:
            self.stop.set()
            disturber.join()
        load = time.monotonic() - start
        self.account()
        return {
            "seconds": round(load, 1),
            "seconds until all was settled": round(time.monotonic() - start - load, 1),
            "pool": self.run.pool,
            "seed": self.options.seed,
            "tasks": len(self.sent),
            "tasks a second": round(len(self.sent) / load),
            "outcomes": dict(self.outcomes.most_common()),
            "disturbances": dict(self.chaos.most_common()),
            "begun again": self.again,
            "without a result": {why: len(found) for why, found in self.without.items()},
            "their stories": self.without,
            "problems": self.problems,
        }

    def account(self) -> None:
        try:
            # what a dead worker had is sent again after a while
            wait_until(self.nothing_waits, 8 * REDELIVERY, "all tasks are acknowledged")
            if self.run.outcome(self.run.send("add", 1, 2)) != 3:
                self.problems.append("a last task fails")
            # what was on its way then has come before that
            wait_until(self.nothing_waits, 8 * REDELIVERY, "all tasks are acknowledged")
        except AssertionError as error:
            self.problems.append(str(error))
        store = self.run.redis()
        began: Counter[str] = Counter()
        for name, times in store.hgetall("began").items():
            began[name.decode().split()[0]] += int(times)
            self.again += int(times) - 1
        outcomes = self.results()
        self.account_for([tid for tid, outcome in outcomes.items() if outcome is None])
        for tid, name in self.sent.items():
            if (outcome := outcomes[tid]) is None:
                continue
            self.outcomes[outcome] += 1
            if outcome not in KINDS[name].outcomes:
                self.problems.append(f"task {tid}, {name}, ended with {outcome}")
            # a limit's time runs from the task's claim: it may be up before the first statement
            if outcome in ("value", "ValueError") and not began[tid]:
                self.problems.append(f"task {tid}, {name}, ended with {outcome}, and never began")
        disturbed = sum(self.chaos.values())
        # a disturbance costs what all processes run, and what the worker has fetched beside that
        if self.again > disturbed * self.options.concurrency * 5:
            self.problems.append(f"{self.again} tasks began again at {disturbed} disturbances")
        if (status := self.run.stop()) != 0:
            self.problems.append(f"the worker's exit status is {status}")
        wait_until(lambda: not self.run.family(), 20.0, "the worker's processes have ended")

    def account_for(self, without: list[str]) -> None:
        """For tasks without a result: a problem, unless the journal shows whose else it is."""
        if not without:
            return
        journal = Journal(self.run.server.folder)
        gone = {one.tid: one for one in journal.gone()}
        cuts = cuts_in(journal)
        for tid, story in journal.stories(without).items():
            text = ", ".join(map(str, story))
            if fate := fate_of(self.sent[tid], story, gone.get(tid), cuts):
                self.without.setdefault(fate, {})[tid] = text
            else:
                self.problems.append(f"task {tid}, {self.sent[tid]}, has no result: {text}")

    def nothing_waits(self) -> bool:
        """What is published by a task is published before that task is acknowledged."""
        return not self.run.waiting() and not self.run.waiting()

    def results(self) -> dict[str, str | None]:
        """The outcomes of all tasks."""
        found: dict[str, str | None] = {}
        for tids in batches([*self.sent], 1000):
            texts = self.run.redis().mget([f"celery-task-meta-{tid}" for tid in tids])
            found.update(zip(tids, map(outcome, tids, texts), strict=True))
        return found


class Cut(NamedTuple):
    """From where to where in the journal connections were cut, or the worker ended."""

    what: str
    begin: int
    end: int


def cuts_in(journal: Journal) -> list[Cut]:
    found = []
    for change in journal.marks():
        what, _, which = change.what.partition(" ")
        if what != "cut" and not what.endswith("_restart"):
            continue
        if which == "begins":
            begin = change.position
        else:
            found.append(Cut(what, begin, change.position))
    return found


def fate_of(kind: str, story: list[Event], gone: Gone | None, cuts: list[Cut]) -> str | None:
    """Why a task has no result, if that is not the pool's doing; None otherwise.

    :param gone: a message of the task that was handed over and not noted.
    """
    if gone and story[-1].position == gone.position:  # nothing has become of it since
        for cut in cuts:
            if gone.position < cut.end and cut.begin < gone.until:
                return f"lost on the way to the worker: {cut.what}"
    # Celery sends a retry before it stores that there will be one: that may come to be stored
    # over the retry's own result, which it looks for, but not in the same transaction
    states = [one.what for one in story if one.what.isupper()]
    if kind == "retry" and "SUCCESS" in states and states[-1] == "RETRY":
        return "its result overwritten by Celery: RETRY"
    return None


def batches(values: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def outcome(tid: str, text: bytes | None) -> str | None:
    """As the result in Redis has it; None if it has none yet."""
    if not ended(text):
        return None
    found = json.loads(text)
    if found["status"] == "SUCCESS":
        return "value" if found["result"] == tid else f"the value {found['result']}"
    return str(found["result"]["exc_type"])


def ended(text: bytes | None) -> bool:
    """Whether this result is a last one: not that of a retry."""
    return text is not None and json.loads(text)["status"] in ("SUCCESS", "FAILURE", "REVOKED")


def soaked(options: argparse.Namespace) -> dict[str, Any]:
    """A whole run's summary."""
    limits = ("--max-tasks-per-child", str(options.max_tasks_per_child))
    alone = run_alone(options.pool, options.concurrency, *limits, settings=SETTINGS, journal=True)
    with alone as run:
        return Soak(options, run).go()


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pool", choices=("ours", "prefork"), default="ours")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tasks-per-child", type=int, default=100)
    parser.add_argument("--rate", type=float, default=2.0, help="disturbances a second")
    return parser.parse_args(words)


def main() -> int:
    summary = soaked(arguments())
    print(json.dumps(summary, indent=1))
    return 1 if summary["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
