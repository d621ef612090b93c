"""The start of a pool, until all of its workers have come to be ready, or somebody or something
has ended it."""

from __future__ import annotations

import threading

from ..errors import PoolTerminated, StartError


class Start:
    """Of one run.

    :param timeout: seconds that it may take.
    """

    def __init__(self, timeout: float) -> None:
        self.attended = True  # somebody waits
        self.over = threading.Event()
        self.error: BaseException | None = None  # why it has failed
        self._timeout = timeout
        self._thread = 0

    def begin(self, attended: bool) -> None:
        self.attended = attended
        self._thread = threading.get_ident()

    def begun_here(self) -> bool:
        """Whether by the calling thread."""
        return threading.get_ident() == self._thread

    def wait(self) -> None:
        """Returns when all workers are ready, or raises why they are not."""
        if not self.over.wait(self._timeout):
            self.fail(self.too_slow())
        if self.error is not None:
            raise self.error

    def too_slow(self) -> StartError:
        return StartError(f"workers not ready within start_timeout={self._timeout} seconds")

    def fail(self, error: BaseException) -> bool:
        """Whether it has failed by that; not if it is over, or has failed already."""
        if self.over.is_set():
            return False
        if self.error is None:
            self.error = error
        self.over.set()
        return True

    def abandon(self) -> None:
        """Nobody wants it any more. Who waits learns of it when the workers are gone. Takes no
        lock: also from a signal handler."""
        if self.attended and not self.over.is_set():
            self.error = PoolTerminated("the pool was terminated while it started")
