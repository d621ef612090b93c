"""Tells the program what becomes of its pool, by functions of its own."""

from __future__ import annotations

import threading
from _queue import SimpleQueue

from .log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Notice = tuple[Callable[..., object], tuple[Any, ...]]


class Notices:
    """Calls functions one after the other, in a thread that lives from the first one to
    `end`: the supervisor's own runs nothing of the user's."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._queue: SimpleQueue[Notice | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, function: Callable[..., object] | None, *args: Any) -> None:
        if function is None:
            return
        self._queue.put((function, args))
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many, or the interpreter ends
                self._log.not_told(function, error)
            else:
                self._thread = thread

    def end(self) -> None:
        """After what has been told."""
        self._queue.put(None)

    def join(self, timeout: float) -> None:
        """After end(); not in a function that it calls."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        while (notice := self._queue.get()) is not None:
            function, args = notice
            try:
                function(*args)
            except BaseException as error:
                self._log.not_told(function, error)
            del notice, function, args
