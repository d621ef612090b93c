"""Who is about to submit to a Pool: what close() waits for."""

from __future__ import annotations

import threading

from ..errors import PoolNotRunning
from ..taskpool import TaskPool
from .imap import Feed, joined, terminated


class Intake:
    """Who is about to submit more: close() lets them finish, the core is closed after
    the last one. Any thread may call all of it, a signal handler `close` and `stop`."""

    def __init__(self, tasks: TaskPool) -> None:
        self._tasks = tasks
        self._changed = threading.Condition(threading.RLock())  # close() in a signal handler
        self._open = 0
        self._closing = False
        self._feeds: set[Feed] = set()

    def enter(self, feed: Feed | None = None) -> None:
        with self._changed:
            if self._closing:
                raise PoolNotRunning("Pool not running")
            self._open += 1
            if feed is not None:
                self._feeds.add(feed)

    def leave(self) -> None:
        with self._changed:
            self._open -= 1
            if self._closing and not self._open:
                self._tasks.close()
                self._changed.notify_all()

    def left(self, feed: Feed) -> None:
        self._feeds.discard(feed)
        self.leave()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            if not self._open:
                self._tasks.close()

    def join(self) -> None:
        """After close(): waits until all is submitted."""
        for feed in list(self._feeds):
            if feed.window.size and feed.window.consumer == threading.get_ident():
                feed.stop(joined)
        with self._changed:
            while self._open and self._tasks._running:
                self._changed.wait(1.0)  # terminate() tells nobody

    def stop(self) -> None:
        """The pool was terminated. Takes no lock."""
        for feed in list(self._feeds):
            feed.stop(terminated)
