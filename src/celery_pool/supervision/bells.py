"""How the supervisor is called, and how others learn of its end."""

from __future__ import annotations

import contextlib
import os
import select
import time

from ..host.files import close_fds
from .worker_process import NEVER

#: No poll waits for longer, in seconds.
LONGEST_POLL = 3600.0


class Bells:
    """Two pipes: any thread and any signal handler rings, the supervisor's thread listens;
    it closes the other one at its end, for which any number of threads may wait. Nothing
    here takes a lock."""

    listens: int  # readable when somebody has rung
    rings: int  # what `ring` writes to; others may as well
    _end_seen: int
    _end: int

    def __init__(self) -> None:
        """OSError if there are no descriptors."""
        self._pid = os.getpid()
        self.listens = self.rings = self._end_seen = self._end = -1
        self.listens, self.rings = os.pipe()
        self._end_seen, self._end = os.pipe()
        os.set_blocking(self.listens, False)
        os.set_blocking(self.rings, False)

    def fds(self) -> set[int]:
        return {self.listens, self.rings, self._end_seen, self._end}

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self.rings, b"w")

    def hush(self) -> None:
        """It has been heard."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.listens, 4096)

    def await_end(self, timeout: float | None) -> None:
        """Returns when the end has come, or after `timeout` seconds."""
        poll = select.poll()
        poll.register(self._end_seen, select.POLLIN)
        end = NEVER if timeout is None else time.monotonic() + timeout
        while not poll.poll(1000 * min(LONGEST_POLL, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                break

    def end(self) -> None:
        close_fds(self, "listens", "_end")

    def __del__(self) -> None:
        """Until then others may ring, and wait."""
        if os.getpid() == self._pid:  # a forked child has closed them
            close_fds(self, "listens", "rings", "_end_seen", "_end")
