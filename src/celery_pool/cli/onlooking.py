"""What the commands have in common that look into another process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable

from ..observe.outside import NoPool
from .usage import EXIT_FAILED, Parser, UsageError, positive, say


def add_pid(parser: Parser) -> None:
    parser.add_argument(
        "pid", metavar="PID", type=positive, help="the program's process, of the same user"
    )


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


def check_output() -> None:
    """Names of functions may have characters that it has not."""
    if sys.stdout is None:
        raise UsageError("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: object) -> str:
    """A name or a text that comes from another process, for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))
