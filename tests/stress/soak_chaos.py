"""What happens to the pool of the soak meanwhile: a table of disturbances."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from celery_pool import TaskPool
from guards import descendants
from processes import signalled_by_another
from soak_board import Board
from soak_load import Load

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: Counters of statistics() that only rise.
RISING = ("submitted", "succeeded", "failed", "lost", "cancelled", "expired", "callback_errors")


class Disturbance(NamedTuple):
    share: float
    act: Callable[[Chaos, random.Random], bool]  # whether it could be done


#: By the thread that does them: those of one thread never meet, those of different threads do.
DISTURBANCES: dict[str, dict[str, Disturbance]] = {"deaths": {}, "changes": {}}


def disturbance(thread: str, name: str, share: float) -> Callable[..., None]:
    def enter(act: Callable[[Chaos, random.Random], bool]) -> None:
        DISTURBANCES[thread][name] = Disturbance(share, act)

    return enter


def spares(processes: int) -> int:
    return max(1, processes // 4)


class Chaos:
    """Disturbs a pool at random, each way once to begin with."""

    def __init__(self, pool: TaskPool, board: Board, load: Load, processes: int) -> None:
        self.pool = pool
        self.board = board
        self.load = load
        self.stop = load.stop
        self.most = processes + 2
        self.done: Counter[str] = Counter()
        self.signalled: Counter[int] = Counter()  # which the program was to get with its group
        self.received: Counter[int] = Counter()
        self._seen = dict.fromkeys(RISING, 0)
        self._crowded_since: float | None = None
        self._looking = threading.Lock()

    def disturb(self, thread: str, each_second: float, seed: int) -> None:
        """In a loop, those of one thread."""
        rng = random.Random(seed)
        table = DISTURBANCES[thread]
        shares = [one.share for one in table.values()]
        owed = rng.sample(list(table), len(table))
        while not self.stop.wait(rng.expovariate(each_second)):
            name = owed.pop() if owed else rng.choices(list(table), shares)[0]
            done = False
            # the process may be gone already
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                done = table[name].act(self, rng)
            if done:
                self.done[name] += 1
            elif not self.done[name]:
                owed.insert(0, name)
            self.look()

    def owed(self) -> set[str]:
        """What has not been done yet."""
        return {name for table in DISTURBANCES.values() for name in table} - self.done.keys()

    def look(self) -> None:
        """What holds at any time."""
        self.pool._core.check_invariants()
        with self._looking:
            allowed = self.board.allowed
            statistics = self.pool.statistics()
            for name, before in self._seen.items():
                self._seen[name] = now = getattr(statistics, name)
                if now < before:
                    self.load.problems.append(f"{name} has fallen from {before} to {now}")
            # at their seats or standing by, and those that only have to end; more for as long as
            # it takes until those who came with a larger pool have gone
            most = max(allowed, self.board.allowed)
            if statistics.workers <= 2 * most + spares(most) + 1:
                self._crowded_since = None
            elif self._crowded_since is None:
                self._crowded_since = time.monotonic()
            elif time.monotonic() - self._crowded_since > 10:
                self.load.problems.append(f"too many workers for {most}: {statistics}")
                self._crowded_since = None

    # ---- deaths ----

    def worker(self, rng: random.Random) -> int:
        """The pid of one; ProcessLookupError if there is none."""
        pids = self.pool.get_worker_pids()
        if not pids:
            raise ProcessLookupError
        return rng.choice(pids)

    def template(self, rng: random.Random) -> int:
        stat = Path(f"/proc/{self.worker(rng)}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        if pid == os.getpid() or pid not in descendants():
            raise ProcessLookupError  # it has died, and its workers are ours
        return pid

    @disturbance("deaths", "SIGKILL", 70)
    def kill(self, rng: random.Random) -> bool:
        os.kill(self.worker(rng), signal.SIGKILL)
        return True

    @disturbance("deaths", "SIGTERM, SIGHUP or SIGQUIT by the program", 5)
    def ask(self, rng: random.Random) -> bool:
        os.kill(self.worker(rng), rng.choice(GROUP_SIGNALS[1:]))
        return True

    @disturbance("deaths", "SIGSTOP, SIGCONT", 10)
    def pause_worker(self, rng: random.Random) -> bool:
        return self.pause(self.worker(rng), rng.random() / 20)

    @disturbance("deaths", "SIGSTOP, SIGKILL", 10)
    def stop_and_kill(self, rng: random.Random) -> bool:
        pid = self.worker(rng)
        os.kill(pid, signal.SIGSTOP)
        self.stop.wait(rng.random() / 50)
        os.kill(pid, signal.SIGKILL)
        return True

    @disturbance("deaths", "SIGKILL of one that stands by", 5)
    def kill_spare(self, rng: random.Random) -> bool:
        return self.kill_one(lambda worker: worker.channel.spare)

    @disturbance("deaths", "SIGKILL of one that leaves", 5)
    def kill_one_that_leaves(self, rng: random.Random) -> bool:
        return self.kill_one(lambda worker: worker.channel.leaving)

    def kill_one(self, which: Callable[[Any], bool]) -> bool:
        found = [worker for worker in self.pool._supervisor.roster if worker.pid and which(worker)]
        for worker in found[:1]:
            worker.send(signal.SIGKILL)  # by its pidfd: it may be gone
        return bool(found)

    @disturbance("deaths", "SIGKILL of the template", 2)
    def kill_template(self, rng: random.Random) -> bool:
        os.kill(self.template(rng), signal.SIGKILL)
        return True

    @disturbance("deaths", "SIGSTOP, SIGCONT of the template", 2)
    def pause_template(self, rng: random.Random) -> bool:
        return self.pause(self.template(rng), rng.random() / 5)

    @disturbance("deaths", "cancel", 20)
    def cancel(self, rng: random.Random) -> bool:
        return bool(self.load.recent) and self.load.recent.pop().cancel()

    @disturbance("deaths", "terminate", 10)
    def terminate(self, rng: random.Random) -> bool:
        return bool(self.load.recent) and self.load.recent.pop().terminate()

    def pause(self, pid: int, seconds: float) -> bool:
        os.kill(pid, signal.SIGSTOP)
        try:
            self.stop.wait(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        return True

    # ---- changes ----

    @disturbance("changes", "limit", 20)
    def set_limit(self, rng: random.Random) -> bool:
        self.pool.limit = rng.choice((self.most, 50, 1000, 5000))
        return True

    @disturbance("changes", "queue at the door", 10)
    def queue_up(self, rng: random.Random) -> bool:
        """Few slots and slow tasks, so that all who submit have to wait."""
        before, self.pool.limit = self.pool.limit, self.most
        self.load.only = "nap"
        try:
            return not self.stop.wait(1)
        finally:
            self.load.only, self.pool.limit = None, before

    @disturbance("changes", "grow", 20)
    def grow(self, rng: random.Random) -> bool:
        if self.pool.processes == self.most:
            return False
        more = rng.randint(1, self.most - self.pool.processes)
        self.board.allowed = max(self.board.allowed, self.pool.processes + more)
        self.pool.grow(more)
        return True

    @disturbance("changes", "shrink", 20)
    def shrink(self, rng: random.Random) -> bool:
        if self.pool.processes == 1:
            return False
        self.pool.shrink(rng.randint(1, self.pool.processes - 1))
        if self.wait_for(lambda: len(self.pool.get_worker_pids()) <= self.pool.processes):
            self.board.allowed = self.pool.processes  # who was to go has gone
        return True

    @disturbance("changes", "renew", 3)
    def renew(self, rng: random.Random) -> bool:
        self.pool.renew()
        return True

    @disturbance("changes", "SIGKILL of a template that renews", 3)
    def kill_new_template(self, rng: random.Random) -> bool:
        """In its initializer, or a little earlier or later."""
        self.pool.renew()
        roster = self.pool._supervisor.roster
        found = [*roster.renewing(), roster.template]
        self.stop.wait(rng.random() / 100)
        if found[0] is None or found[0].pid is None:
            return False
        os.kill(found[0].pid, signal.SIGKILL)
        return True

    @disturbance("changes", "renew in an outage", 2)
    def renew_in_vain(self, rng: random.Random) -> bool:
        """Of what the template's initializer needs."""
        renewal = self.pool._supervisor._renewal
        with self.what_they_need_is_down():
            self.pool.renew()
            felt = self.wait_for(lambda: renewal.failures.length > 0)
            self.stop.wait(rng.random() / 2)
        return felt

    @disturbance("changes", "outage for the template", 2)
    def outage_for_the_template(self, rng: random.Random) -> bool:
        """The next one cannot be initialized for a while."""
        before = self.failed_starts()
        with self.what_they_need_is_down():
            os.kill(self.template(rng), signal.SIGKILL)
            os.kill(self.worker(rng), signal.SIGKILL)
            felt = self.wait_for(lambda: self.failed_starts() > before)
            self.stop.wait(rng.random() / 2)
        return felt

    @disturbance("changes", "outage", 5)
    def outage(self, rng: random.Random) -> bool:
        """What initializers need is down for a while, and a start has failed for it."""
        before = self.failed_starts()
        with self.what_they_need_is_down():
            os.kill(self.worker(rng), signal.SIGKILL)
            felt = self.wait_for(lambda: self.failed_starts() > before)
            self.stop.wait(rng.random())
        return felt

    @contextlib.contextmanager
    def what_they_need_is_down(self) -> Iterator[None]:
        """Initializers fail meanwhile."""
        self.board.down = True
        try:
            yield
        finally:
            self.board.down = False

    def failed_starts(self) -> int:
        return self.pool.statistics().exits.get("failed_start", 0)

    @disturbance("changes", "SIGKILL at a start", 10)
    def kill_at_start(self, rng: random.Random) -> bool:
        """Of a worker that is inside its initializer."""
        self.board.set_trap(True)
        try:
            os.kill(self.worker(rng), signal.SIGKILL)
            if not self.wait_for(lambda: self.board.trapped):
                return False
            os.kill(self.board.trapped, signal.SIGKILL)
        finally:
            self.board.set_trap(False)
        return True

    @disturbance("changes", "signal to the group", 10)
    def signal_group(self, rng: random.Random) -> bool:
        number = rng.choice(GROUP_SIGNALS)
        self.signalled[number] += 1
        signalled_by_another(-os.getpgrp(), number)
        # those of one number that wait for their handler count as one
        return self.wait_for(lambda: self.received == self.signalled)

    @disturbance("changes", "poison pills", 3)
    def poison(self, rng: random.Random) -> bool:
        for _ in range(10):
            self.load.submit_one(self.pool, rng, "pill")
        return True

    def wait_for(self, condition: Callable[[], object], seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or self.stop.wait(0.002):
                return False
        return True
