"""Options of the pool that are switches of the command line."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
from typing import cast

from ..options import WorkerOptions
from . import function
from .usage import positive, seconds


def add(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits of a task")
    group.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help="after which it is killed, and fails"
    )
    group.add_argument(
        "--soft-timeout",
        metavar="SECONDS",
        type=seconds,
        help="after which SoftTimeLimitExceeded is raised in it",
    )
    group.add_argument(
        "--memory-kill",
        metavar="KIB",
        type=positive,
        help="of memory above which its worker is killed, and it fails",
    )
    group.add_argument(
        "--kill-grace",
        metavar="SECONDS",
        type=seconds,
        help="between the signal that asks a worker to end and SIGKILL (1)",
    )
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--start-method",
        dest="context",
        choices=multiprocessing.get_all_start_methods(),
        help="how they are started (Python's default)",
    )
    group.add_argument(
        "--template-initializer",
        metavar="MODULE:FUNCTION",
        help="called once, in the process from which all are forked: for what takes long to load",
    )
    group.add_argument(
        "--start-timeout", metavar="SECONDS", type=seconds, help="until all are ready (60)"
    )
    group.add_argument(
        "--start-retries",
        metavar="N",
        type=positive,
        help="how often in a row the start of a replacement may fail (for ever)",
    )
    group.add_argument(
        "--max-restarts",
        metavar="N",
        type=positive,
        help="how often one may die within a minute while it does nothing (100)",
    )
    group.add_argument(
        "--max-tasks-per-child",
        dest="maxtasksperchild",
        metavar="N",
        type=positive,
        help="after which one is replaced (never)",
    )
    group.add_argument(
        "--max-memory-per-child",
        metavar="KIB",
        type=positive,
        help="above which one is replaced after its task (never)",
    )
    group.add_argument(
        "--blas-threads",
        metavar="N",
        type=_threads,
        help="that numeric libraries use in each; 'auto': the CPUs shared out",
    )


def given(options: argparse.Namespace) -> WorkerOptions:
    """What add() has found, as the pool wants it."""
    names = WorkerOptions.__optional_keys__
    set_here = {name: value for name, value in vars(options).items() if name in names}
    found = cast(WorkerOptions, {n: value for n, value in set_here.items() if value is not None})
    if options.template_initializer is not None:
        found["template_initializer"] = _initialize
        found["template_initargs"] = (options.template_initializer,)
    return found


def _initialize(name: str) -> None:
    """In the template."""
    with contextlib.redirect_stdout(sys.stderr):  # what it prints must not stand among the results
        function.load(name)()


def _threads(text: str) -> int | str:
    return text if text == "auto" else positive(text)
