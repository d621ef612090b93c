"""A progress bar on standard error, if that is a terminal and tqdm is there (the extra `cli`)."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

REFRESH = 0.1  # seconds from one drawing to the next


class Counters(Protocol):
    @property
    def submitted(self) -> int: ...

    finished: int
    failed: int


class Progress:
    """Shows counters that others count: a task costs nothing for it."""

    def __init__(self, counters: Counters, total: int | None) -> None:
        self._counters = counters
        self._total = total
        self._bar: Any = None
        self._due = 0.0  # when it is to be drawn again
        self.shown = False

    def start(self) -> None:
        if sys.stderr is None or not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        tqdm.monitor_interval = 0  # no thread of its own
        tqdm.set_lock(threading.RLock())  # and no semaphore for other processes
        width = {"dynamic_ncols": True} if _columns() else {"ncols": 80, "nrows": 24}
        self._bar = tqdm(total=self._total, unit=" tasks", file=sys.stderr, **width)
        self.shown = True

    def refresh(self) -> None:
        """Shows the counters, if it is time to."""
        now = time.monotonic()
        if self._bar is None or now < self._due:
            return
        self._due = now + REFRESH
        counters = self._counters
        in_flight = counters.submitted - counters.finished
        self._bar.set_postfix_str(f"{in_flight} in flight, {counters.failed} failed", refresh=False)
        if not self._bar.update(counters.finished - self._bar.n):
            self._bar.refresh()

    @contextlib.contextmanager
    def hidden(self, needed: bool) -> Iterator[None]:
        """Takes the bar off the terminal while lines are written there."""
        if self._bar is None or not needed:
            yield
            return
        self._bar.clear()
        yield
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._due = 0.0
            self.refresh()
            self._bar.close()
            self._bar = None
            self.shown = False


def _columns() -> int:
    """The width of the terminal, 0 if it does not tell."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0
