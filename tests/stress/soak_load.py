"""The load of the soak: a table of kinds of tasks, who submits them, and how each has ended."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import queue
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import soak_tasks
from celery_pool import (
    AsyncResult,
    MemoryLimitExceeded,
    PoolFull,
    TaskCancelled,
    TaskExpired,
    TaskPool,
    TaskTerminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from soak_board import Board

SUCCEEDED = type(None)
#: Whose outcome may meet every task: others are killed, and these are picked at random.
BYSTANDER = frozenset((WorkerLostError, TaskCancelled, TaskTerminated))
#: Outcomes of tasks that have not begun, and of those that have; of others one cannot say.
NEVER_RAN = frozenset((TaskCancelled, TaskExpired, PoolFull))
MAY_HAVE_RUN = frozenset((WorkerLostError, TaskTerminated, MemoryLimitExceeded, TimeLimitExceeded))
OUTCOMES = (
    SUCCEEDED,
    ValueError,
    soak_tasks.Leave,
    soak_tasks.OutOfTime,
    *sorted(NEVER_RAN | MAY_HAVE_RUN, key=lambda outcome: outcome.__name__),
)
UNKNOWN = 255
#: Seconds for which a thread that waits for a slot may be overtaken. The rule is 5 ms; the rest is
#: for what it does before it waits, and for its turn at the GIL.
MOST_OVERTAKEN = 0.5
LONGEST_TURN = 0.02


class Kind(NamedTuple):
    share: float  # of all tasks
    body: soak_tasks.Body | None  # None: somebody else's future, by add()
    size: Callable[[random.Random], int] = lambda rng: 0
    ends: tuple[type, ...] = (SUCCEEDED,)  # beside what may meet every task
    limits: dict[str, Any] | None = None  # for apply_async


def below(most: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.randrange(most)


def one_of(*sizes: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.choice(sizes)


SOME_BYTES = one_of(1, 100, 1000, 10_000, 60_000, 70_000, 200_000, 1_000_000)

KINDS = {
    "nothing": Kind(850, soak_tasks.sleep),
    "error": Kind(50, soak_tasks.fail, ends=(ValueError,)),
    "argument": Kind(35, soak_tasks.take, SOME_BYTES),
    "result": Kind(35, soak_tasks.give, SOME_BYTES),
    "large argument": Kind(0.3, soak_tasks.take, one_of(20_000_000)),
    "large result": Kind(0.3, soak_tasks.give, one_of(20_000_000)),
    "work": Kind(10, soak_tasks.work, below(2000)),
    "sleep": Kind(10, soak_tasks.sleep, below(3000)),
    "nap": Kind(0.1, soak_tasks.sleep, one_of(20_000)),
    "foreign": Kind(10, None, below(2), ends=(SUCCEEDED, ValueError)),
    "expires": Kind(3, soak_tasks.sleep, below(500), (SUCCEEDED, TaskExpired), {"expires": 0.005}),
    "soft limit": Kind(
        1.5,
        soak_tasks.sleep,
        below(20_000),
        (SUCCEEDED, soak_tasks.OutOfTime),
        {"soft_timeout": 0.01},
    ),
    "soft limit, caught": Kind(
        0.5,
        soak_tasks.tidy_up,
        below(20_000),
        (SUCCEEDED, soak_tasks.OutOfTime),
        {"soft_timeout": 0.01},
    ),
    "soft limit, again": Kind(
        0.3,
        soak_tasks.endure,
        one_of(2),
        (SUCCEEDED, soak_tasks.OutOfTime),
        {"soft_timeout": 0.01},
    ),
    "soft limit, deaf": Kind(
        0.3,
        soak_tasks.turn_deaf,
        below(20_000),
        (SUCCEEDED, soak_tasks.OutOfTime),
        {"soft_timeout": 0.01},
    ),
    "hard limit": Kind(
        1,
        soak_tasks.work,
        below(20_000),
        (SUCCEEDED, TimeLimitExceeded),
        {"timeout": 0.01},
    ),
    "hard limit, stubborn": Kind(
        0.1,
        soak_tasks.be_stubborn,
        one_of(1_000_000),
        (SUCCEEDED, TimeLimitExceeded),
        {"timeout": 0.01},
    ),
    "both limits": Kind(
        0.5,
        soak_tasks.tidy_up,
        below(20_000),
        (SUCCEEDED, soak_tasks.OutOfTime, TimeLimitExceeded),
        {"soft_timeout": 0.01, "timeout": 0.011},
    ),
    "not to wait": Kind(2, soak_tasks.sleep, below(100), (SUCCEEDED, PoolFull), {"block": False}),
    "to wait a little": Kind(
        2, soak_tasks.sleep, below(100), (SUCCEEDED, PoolFull), {"slot_timeout": 0.001}
    ),
    "exit": Kind(0.3, soak_tasks.exit_at_once, below(4), ends=()),
    "pill": Kind(
        0.3, soak_tasks.die, one_of(signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2), ends=()
    ),
    "leave_on": Kind(0.5, soak_tasks.leave, ends=(soak_tasks.Leave,)),
    "retire": Kind(0.5, soak_tasks.retire),
    "child": Kind(0.5, soak_tasks.leave_a_child, below(100_000)),
    "hoard": Kind(0.1, soak_tasks.hoard, one_of(10_000_000, 20_000_000)),
    "burst": Kind(0.1, soak_tasks.burst, one_of(20_000_000), (SUCCEEDED, MemoryLimitExceeded)),
}
NAMES = tuple(KINDS)


class Ending(NamedTuple):
    """How so many tasks have ended alike."""

    kind: str
    outcome: type | None  # None: it is none of ours
    calls: int  # of callbacks and errbacks
    begun: int

    def problem(self) -> str | None:
        """What is wrong with it."""
        kind, outcome = KINDS[self.kind], self.outcome
        if self.calls != (outcome is not PoolFull):
            return f"{self.calls} callbacks were called"
        if outcome is None or outcome not in BYSTANDER | set(kind.ends):
            return "which must not be"
        if kind.body is None or outcome in NEVER_RAN:
            least = most = 0
        elif outcome in MAY_HAVE_RUN:
            least, most = 0, 1
        else:
            least = most = 1
        if not least <= self.begun <= most:
            return f"the body has begun {self.begun} times"
        return None


def name_of(outcome: type | None) -> str:
    """None: of a task that has none, or none of ours."""
    return {SUCCEEDED: "succeeded", None: "unknown"}.get(outcome) or outcome.__name__


class Turns:
    """Whether threads that wait for a slot are served in the order in which they came."""

    def __init__(self) -> None:
        self._tickets = itertools.count()
        self._waiting: dict[int, tuple[float, float]] = {}  # ticket -> (overtaken for, last at)
        self._lock = threading.Lock()
        self.longest = 0.0  # seconds for which others who had come later were served

    @contextmanager
    def wait(self) -> Iterator[None]:
        with self._lock:
            ticket = next(self._tickets)
            self._waiting[ticket] = 0.0, time.monotonic()
        served = False
        try:
            yield
            served = True
        finally:
            now = time.monotonic()
            with self._lock:
                del self._waiting[ticket]
                for other, (overtaken, last) in self._waiting.items():
                    if served and other < ticket:
                        # a pause is nobody's turn
                        seconds = overtaken + min(now - last, LONGEST_TURN)
                        self._waiting[other] = seconds, now
                        self.longest = max(self.longest, seconds)


class Load:
    """What is submitted to a pool by several threads, and how it ends."""

    def __init__(self, board: Board, path: str, most: int) -> None:
        self.stop = threading.Event()
        self.problems: list[str] = []
        self.turns = Turns()
        self.only: str | None = None  # all that is submitted now
        self.recent: deque[AsyncResult] = deque(maxlen=200)
        self._most = most
        self._board = board
        self._path = path
        self._lock = threading.Lock()
        self._kinds = bytearray()  # one entry a task, as are
        self._outcomes = bytearray()
        self._calls = bytearray()
        self._foreign: queue.SimpleQueue[tuple[concurrent.futures.Future[Any], int, int] | None]
        self._foreign = queue.SimpleQueue()

    # ---- submitting ----

    def submit(self, pool: TaskPool, seed: int) -> None:
        """In a loop, each kind once to begin with."""
        rng = random.Random(seed)
        shares = list(itertools.accumulate(kind.share for kind in KINDS.values()))
        names = rng.sample(NAMES, len(NAMES))
        while not self.stop.is_set():
            if not names:
                names = rng.choices(NAMES, cum_weights=shares, k=1000)
            self.submit_one(pool, rng, self.only or names.pop())

    def submit_one(self, pool: TaskPool, rng: random.Random, name: str) -> None:
        kind = KINDS[name]
        size = kind.size(rng)
        with self._lock:
            number = len(self._kinds)
            assert number < self._most
            self._kinds.append(NAMES.index(name))
            self._outcomes.append(UNKNOWN)
            self._calls.append(0)
        callbacks = {"callbacks": self._succeeded, "errbacks": self._failed}
        meta = number, kind, size
        try:
            if kind.body is None:
                future: concurrent.futures.Future[Any] = concurrent.futures.Future()
                with self.turns.wait():
                    pool.add(future, meta=meta, **callbacks)
                self._foreign.put((future, number, size))
                return
            data = soak_tasks.PATTERN[:size] if kind.body is soak_tasks.take else b""
            submit = functools.partial(
                pool.apply_async, soak_tasks.run, (self._path, number, kind.body, size, data)
            )
            with self.turns.wait():
                result = submit(meta=meta, **callbacks, **(kind.limits or {}))
        except PoolFull as error:
            self._outcomes[number] = OUTCOMES.index(type(error))
            return
        if rng.random() < 0.05:
            self.recent.append(result)

    def end_foreign(self) -> None:
        """Gives futures their results, until told by stop_foreign()."""
        while (given := self._foreign.get()) is not None:
            future, number, fails = given
            if fails:
                future.set_exception(ValueError(number))
            else:
                future.set_result((number, b""))

    def stop_foreign(self) -> None:
        self._foreign.put(None)

    # ---- callbacks: one at a time ----

    def _succeeded(self, value: Any, meta: Any) -> None:
        number, kind, size = meta
        self._end(number, SUCCEEDED)
        if value != (number, soak_tasks.PATTERN[:size] if kind.body is soak_tasks.give else b""):
            self.problems.append(f"task {meta} returned {str(value)[:100]}")

    def _failed(self, error: BaseException, meta: Any) -> None:
        self._end(meta[0], type(error))
        if type(error) not in OUTCOMES:
            self.problems.append(f"task {meta} failed with {error!r}"[:500])

    def _end(self, number: int, outcome: type) -> None:
        self._calls[number] = min(self._calls[number] + 1, 255)
        self._outcomes[number] = OUTCOMES.index(outcome) if outcome in OUTCOMES else UNKNOWN

    # ---- afterwards ----

    def endings(self) -> Counter[Ending]:
        marks = self._board.marks(len(self._kinds))
        counts = Counter(zip(self._kinds, self._outcomes, self._calls, marks, strict=True))
        return Counter(
            {
                Ending(
                    NAMES[kind], None if outcome == UNKNOWN else OUTCOMES[outcome], calls, begun
                ): count
                for (kind, outcome, calls, begun), count in counts.items()
            }
        )

    def outcomes(self) -> Counter[type | None]:
        found: Counter[type | None] = Counter()
        for ending, count in self.endings().items():
            found[ending.outcome] += count
        return found

    def check(self, statistics: Any) -> None:
        """Every task is accounted for once, and the pool has counted the same."""
        for ending, count in self.endings().items():
            if problem := ending.problem():
                self.problems.append(f"{count} times {ending}: {problem}")
        seen = self.outcomes()
        ended = seen.total() - seen[PoolFull]
        for what, mine, its in (
            ("submitted", ended, statistics.submitted),
            ("succeeded", seen[SUCCEEDED], statistics.succeeded),
            ("failed", ended - seen[SUCCEEDED], statistics.failed),
            ("lost", seen[WorkerLostError], statistics.lost),
            ("cancelled", seen[TaskCancelled], statistics.cancelled),
            ("expired", seen[TaskExpired], statistics.expired),
            ("errors of callbacks", 0, statistics.callback_errors),
        ):
            if mine != its:
                self.problems.append(f"{what}: {mine} seen by callbacks, {its} counted")
        if self.turns.longest > MOST_OVERTAKEN:
            self.problems.append(f"overtaken for {self.turns.longest:.2f} s while it waited")
