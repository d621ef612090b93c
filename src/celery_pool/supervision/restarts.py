"""Holding crash loops back: a growing delay, and a budget."""

from __future__ import annotations

from collections import deque

#: Before the second start in a row after a worker that did nothing; doubles, in seconds.
FIRST_DELAY, LONGEST_DELAY = 0.01, 0.5


class RestartBudget:
    """Counts workers that died without having finished a task.

    :param most: how many of them within `window` seconds a pool survives.
    """

    def __init__(self, most: int, window: float) -> None:
        self.most = most
        self.window = window
        self.next_start = 0.0  # monotonic seconds
        self._deaths: deque[float] = deque()
        self._in_a_row = 0

    def died(self, now: float, healthy: bool) -> bool:
        """A worker died unplanned; `healthy`: it had finished tasks. Whether the
        budget is used up."""
        if healthy:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row > 1:
            delay = min(FIRST_DELAY * 2 ** min(self._in_a_row - 2, 30), LONGEST_DELAY)
            self.next_start = now + delay
        self._deaths.append(now)
        while self._deaths[0] < now - self.window:
            self._deaths.popleft()
        return len(self._deaths) > self.most
