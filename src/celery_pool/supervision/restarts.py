"""When a worker is started again, and when none is any more.

Three ways to die are held apart. Who had claimed a task was healthy: it is replaced at
once. Who was ready and dies idle has crashed: a growing delay, and a budget. And a start
may fail, for as long as an outage lasts, say of the database that the initializer asks:
that is tried again, by one worker at a time, until it succeeds; then the others follow.
"""

from __future__ import annotations

import os
import time
from collections import deque

from .verdicts import killed_by_others
from .worker_process import WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .log import Log

#: Before a second crash in a row is made good, and before a failed start is tried
#: again; doubles each time, in seconds.
FIRST_DELAY = 0.01
#: To which the delay between crashes grows.
LONGEST_DELAY = 0.5
#: To which the delay between starts grows in an outage: a second, and a sixtieth of how
#: long it has lasted, so that its end is seen within that.
OUTAGE_DELAY, OUTAGE_SHARE, LONGEST_OUTAGE_DELAY = 1.0, 1 / 60, 30.0
#: A delay is longer by up to this share of it, so that many pools don't ask in step.
JITTER = 0.25
#: Rounds of starts that may be killed in a row while no worker has been ready.
KILLED_STARTS = 5


class Restarts:
    """Of one run of a pool.

    :param most: crashes within `window` seconds that the pool survives, times its workers.
    :param retries: starts that may fail in a row; None: any number.
    """

    def __init__(self, most: int, window: float, retries: int | None) -> None:
        self.most = most
        self.window = window
        self.retries = retries
        self.next_start = 0.0  # monotonic seconds
        self.outage = Row()
        self._crashing = Row()
        self._killed = Row()
        self._crashes = Window(window)
        self._owed = 0  # workers that died unasked and have no successor that is ready

    @property
    def probing(self) -> bool:
        """Starts fail: one worker at a time tries."""
        return self.outage.length > 0

    def died(self, worker: WorkerProcess, begun: bool, started: bool, workers: int) -> str | None:
        """A worker died unasked. Returns what has come to pass if none may take its place.

        :param begun: it had claimed a task.
        :param started: all of the pool's workers have been ready once.
        :param workers: how many those are.
        """
        now, asked = time.monotonic(), worker.asked
        self._owed += 1
        if begun:
            self.worked()
        elif worker.channel.greeted:
            if self.crashed(now, asked, workers):
                return (
                    f"each of {workers} workers died more than {self.most} times "
                    f"within {self.window} seconds without a task, the last one"
                )
        elif started:
            if self.failed(now, asked):
                return self.no_more_retries()
        elif not killed_by_others(worker) or self.killed_at_start(now, asked, workers):
            return "a worker could not be started"
        return None

    def no_more_retries(self) -> str:
        return f"no worker could be started in {self.retries} retries, the last one"

    def worked(self) -> None:
        """A worker died in a task, or after one."""
        self._crashing = Row()

    def crashed(self, now: float, asked: float, workers: int) -> bool:
        """A worker that was asked for at `asked` died, ready and without having claimed a
        task, or was killed before. Whether the budget of so many workers is used up."""
        if self._crashing.another(now, asked) and self._crashing.length > 1:
            delay = _doubled(self._crashing.length - 2, LONGEST_DELAY)
            self.next_start = now + _longer_by_chance(delay)
        return self._crashes.another(now) > self.most * workers

    def killed_at_start(self, now: float, asked: float, workers: int) -> bool:
        """As `crashed`, before all have been ready once: that is not to take as long as the
        budget lasts."""
        self._killed.another(now, asked)
        return self.crashed(now, asked, workers) or self._killed.length > KILLED_STARTS

    def failed(self, now: float, asked: float = float("inf")) -> bool:
        """The start of a worker has failed, which was asked for at `asked`, or could not even
        be. Whether it was the last one allowed."""
        if self.outage.another(now, asked):
            self.next_start = now + outage_delay(self.outage, now)
        return self.retries is not None and self.outage.length > self.retries

    def succeeded(self) -> bool:
        """A worker is ready. Whether it takes the place of one that died unasked."""
        self._killed = Row()
        if self.probing:
            self.outage = Row()
            self.next_start = 0.0
        replaces = self._owed > 0
        self._owed -= replaces
        return replaces


class Failures:
    """Turns of the supervisor that have failed: for want of memory or descriptors, or by a
    defect of ours.

    :param most: failures within `window` seconds that are borne.
    """

    def __init__(self, most: int, window: float, log: Log) -> None:
        self._most = most
        self._times = Window(window)
        self._log = log
        self._in_a_row = 0

    def bears(self, error: Exception) -> bool:
        """Returns when it is time for the next turn; False: there have been too many."""
        self._in_a_row += 1
        if self._times.another(time.monotonic()) > self._most:
            return False
        self._log.turn_failed(error)
        time.sleep(_doubled(self._in_a_row - 1, LONGEST_DELAY))
        return True

    def none(self) -> None:
        """A turn has not failed."""
        self._in_a_row = 0


class Window:
    """Counts what has happened within the last so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque()

    def another(self, now: float) -> int:
        """It has happened again: how many times that makes."""
        self._times.append(now)
        while self._times[0] < now - self._seconds:
            self._times.popleft()
        return len(self._times)


class Row:
    """Failures without a success between them; those under way together count as one."""

    def __init__(self) -> None:
        self.length = 0
        self.since = 0.0  # when the first one was
        self._counted = 0.0  # when the last one was that counted

    def another(self, now: float, asked: float) -> bool:
        """Whether it counts."""
        if self.length == 0:
            self.since = now
        elif asked < self._counted:
            return False
        self.length += 1
        self._counted = now
        return True


def outage_delay(outage: Row, now: float) -> float:
    """Seconds until it is tried whether an outage is over."""
    longest = max(OUTAGE_DELAY, OUTAGE_SHARE * (now - outage.since))
    return _longer_by_chance(_doubled(outage.length - 1, min(longest, LONGEST_OUTAGE_DELAY)))


def _doubled(times: int, longest: float) -> float:
    return min(FIRST_DELAY * 2.0 ** min(times, 30), longest)


def _longer_by_chance(delay: float) -> float:
    return delay * (1 + JITTER * int.from_bytes(os.urandom(2)) / 0xFFFF)
