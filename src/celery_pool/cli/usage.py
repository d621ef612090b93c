"""What the user got wrong, said in one line."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128  # and the signal's number


class UsageError(Exception):
    """A mistake in the command line or the files named there, in one line for the user."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def positive(text: str) -> int:
    """The type of an option that counts something."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return number


def seconds(text: str) -> float:
    """The type of an option that is a time."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def say(command: str, text: str) -> None:
    """One line to the user, if there is a standard error to take it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"{command}: {text}", file=sys.stderr, flush=True)
