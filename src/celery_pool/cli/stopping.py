"""One way to stop early, whoever wants it: Ctrl-C, a broken pipe, many failures, a full disk."""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from .usage import EXIT_SIGNAL

AGAIN = 0.01  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reason(enum.Enum):
    SIGNAL = "Ctrl-C, the terminal was closed, or somebody asked for the end"
    PIPE_CLOSED = "nobody reads the output any more"
    OUTPUT_FAILED = "the output could not be written"
    TOO_MANY_FAILURES = "too many failures"


class Stopped(KeyboardInterrupt):
    """Raised in the main thread, wherever it waits."""


class Stopper:
    """A context manager that handles the signals while it lasts; for the main thread.

    `reason` is None until somebody wants to stop; then the main thread gets `Stopped`, raised by
    the signal handler so that it ends any wait. Only a callback that is running is not torn apart:
    there the main loop has to look at `reason`, which it does after each task anyway. So what has
    been written is whole and in order, whatever happens.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.signum = 0  # with Reason.SIGNAL: which
        self._uninterrupted: list[object] = []  # code of the functions not to be torn apart
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._main = threading.main_thread().ident
        self._own_signals = 0  # sent by request() and not yet handled
        self._over = False
        self._previous: dict[int, Any] = {}
        self._previous_hook = sys.unraisablehook

    def __enter__(self) -> Stopper:
        for signum in SIGNALS:
            # Whoever ignores SIGHUP or SIGTERM (nohup) keeps on; SIGINT serves request(), too.
            if signum == signal.SIGINT or signal.getsignal(signum) != signal.SIG_IGN:
                self._previous[signum] = signal.signal(signum, self._on_signal)
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over()
        sys.unraisablehook = self._previous_hook
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def protect(self, *methods: Callable[..., object]) -> None:
        """These methods, when they run in the main thread, are left to finish."""
        self._uninterrupted += [method.__func__.__code__ for method in methods]  # type: ignore[attr-defined]

    def request(self, reason: Reason) -> None:
        """Stop for this reason, unless there is one already; from any thread."""
        with self._lock:
            if self._over or self.reason is not None:
                return
            self.reason = reason
            self._signal_main()

    def over(self) -> None:
        """Only the clean-up is left: from now on, a signal ends the process on the spot."""
        with self._lock:
            self._over = True

    def _signal_main(self) -> None:
        self._own_signals += 1
        if self._main is not None:
            signal.pthread_kill(self._main, signal.SIGINT)

    def _on_unraisable(self, unraisable: Any) -> None:
        """`Stopped` went where exceptions have no effect, as in a destructor: once more, then."""
        if isinstance(unraisable.exc_value, Stopped):
            threading.Timer(AGAIN, self._stop_again).start()
        else:
            self._previous_hook(unraisable)

    def _stop_again(self) -> None:
        with self._lock:
            if not self._over:
                self._signal_main()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # in a child that has not yet made its own arrangements
        if signum == signal.SIGINT and self._own_signals:
            self._own_signals = 0
            if self._over:
                return
        elif signum == signal.SIGINT and self._previous[signum] == signal.SIG_IGN:
            return  # as in a shell's background job
        elif self._over:
            os._exit(EXIT_SIGNAL + signum)
        elif self.reason is None:
            self.reason = Reason.SIGNAL
            self.signum = signum
        while frame is not None:
            if frame.f_code in self._uninterrupted:
                return
            frame = frame.f_back
        raise Stopped
