"""What the commands have in common that look into another process."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from ..observe.outside import NoPool
from .usage import EXIT_FAILED, Parser, UsageError, positive, say


def onlooker(command: str, description: str, failures: str) -> Parser:
    """A parser for one process and options.

    :param failures: when the exit status is 1.
    """
    parser = Parser(
        prog=command,
        usage="%(prog)s [OPTION ...] PID",
        description=description,
        epilog=f"Exit status: 0; 1 if {failures}; 2 if the command cannot be carried out as given.",
    )
    parser.add_argument(
        "pid", metavar="PID", type=positive, help="the program's process, of the same user"
    )
    return parser


def politely(command: str, body: Callable[[], int]) -> int:
    """What the body returns; if there is nothing to look at, a sentence, and that it has failed."""
    try:
        return body()
    except (NoPool, PermissionError) as error:
        say(command, str(error))
        return EXIT_FAILED
    except BrokenPipeError:  # who reads has had enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


class Stop:
    """A signal that asks for the end, and who waits for one. For the main thread.

    The bytes come from Python's own handler: a signal just before `wait` is not overslept. Nothing
    here takes a lock, which the signal might find taken.
    """

    def __init__(self) -> None:
        self._wished = False
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self._wished = True

    def is_set(self) -> bool:
        return self._wished

    def wait(self, timeout: float | None = None) -> bool:
        """Until there is a signal.

        :param timeout: seconds at most; None: without limit.
        :returns: whether there was one.
        """
        return bool(select.select([self._reader], [], [], timeout)[0])

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._reader)
        os.close(self._writer)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """What would end this process asks for it, and it ends where it likes to."""
    stop = Stop()
    before = {
        signum: signal.signal(signum, stop.handle)
        for signum in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        stop.close()


def check_output() -> None:
    """Names of functions may have characters that it has not."""
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: object) -> str:
    """A name or a text that comes from another process, for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))
