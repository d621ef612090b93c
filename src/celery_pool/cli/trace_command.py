"""`celery-pool trace PID`: every task of a program's pools for a while, as a trace for Perfetto."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO

from ..observe.chrome_trace import ChromeTrace
from ..observe.figures import Look
from ..observe.outside import pools_of
from ..observe.recording import GRACE, PAUSE, Recording
from .onlooking import onlooker, politely, stopping
from .usage import EXIT_FAILED, Parser, UsageError, say, seconds

COMMAND = "celery-pool trace"
HELP = "record each task of a running program's pools, for Perfetto"
SECONDS = 5.0
STANDARD = "-"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    return politely(COMMAND, lambda: _run(options))


def _parser() -> Parser:
    parser = onlooker(
        COMMAND,
        "Records each task that the workers begin within some seconds, what they run "
        "at the beginning and at the end, and writes a trace: open it at https://ui.perfetto.dev "
        "or chrome://tracing. Times are of CLOCK_MONOTONIC. Ctrl-C and SIGTERM end it before its "
        "time.",
        "there is no pool that one may look into, or the file cannot be written",
    )
    parser.add_argument(
        "--seconds", metavar="S", type=seconds, default=SECONDS, help=f"how long ({SECONDS:g})"
    )
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        default=STANDARD,
        help="where the trace goes (standard output)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    views = pools_of(options.pid)
    with _opened(options.output) as file:
        try:
            trace = ChromeTrace(file)
            trace.process(options.pid, f"process {options.pid}")
            recordings = [Recording(view, trace, f"{Look.at_pool(view).name} ") for view in views]
            _record(recordings, options.seconds)
            missed = sum(one.missed for one in recordings)
            trace.end({"missed": missed, "clock": "CLOCK_MONOTONIC"})
            file.flush()
        except OSError as error:
            if error.filename is not None or isinstance(error, BrokenPipeError):
                raise
            say(COMMAND, f"error: cannot write {options.output}: {error.strerror}")
            return EXIT_FAILED
    _conclude(recordings)
    return 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    if name == STANDARD:
        if sys.stdout is None:
            raise UsageError("standard output is closed")
        if sys.stdout.isatty():
            raise UsageError("a trace is nothing for a terminal: name a file by --output")
        yield sys.stdout
        return
    try:
        file = open(name, "w", encoding="utf-8")  # noqa: SIM115 (closed below, for its errors)
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}") from error
    with file:
        yield file


def _record(recordings: Sequence[Recording], how_long: float) -> None:
    end = time.monotonic() + how_long
    until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(how_long * 1e9)
    for one in recordings:
        one.begin(until)
    with stopping() as stopped:  # a look that is interrupted would lose what it has read
        while time.monotonic() < end + GRACE and not stopped.is_set():
            for one in recordings:
                one.look()
            stopped.wait(PAUSE)
        for one in recordings:
            one.finish()


def _conclude(recordings: Sequence[Recording]) -> None:
    say(COMMAND, f"{sum(one.tasks for one in recordings):,} tasks")
    if missed := sum(one.missed for one in recordings):
        say(COMMAND, f"{missed:,} more were missed: they came too fast")
    if workers := sum(one.missed_workers for one in recordings):
        say(COMMAND, f"{workers:,} workers came and went unseen, with what they ran")
