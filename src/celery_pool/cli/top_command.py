"""`celery-pool top PID`: what the pools of a program do, read from their shared memory."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence

from ..observe.figures import SORT_KEYS, Look, PoolFigures, document, figures
from ..observe.outside import pools_of
from .onlooking import check_output, onlooker, politely
from .usage import Parser, UsageError, seconds

COMMAND = "celery-pool top"
HELP = "show what the pools of a running program do"
INTERVAL = 1.0
SHORTEST = 0.05


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_output()
    return politely(COMMAND, lambda: _run(options))


def _parser() -> Parser:
    parser = onlooker(
        COMMAND,
        "Shows what the pools of a program do: tasks a second and in flight, how long "
        "those of each function wait and run, what each worker runs, why workers have ended, and "
        "what was lost last. It asks nothing of the program, which may hang or be stopped. Keys: "
        "s sorts by the next column, r the other way round, p pauses, q leaves.",
        "there is no pool that one may look into",
    )
    parser.add_argument(
        "--once", action="store_true", help="one look, as text: what is counted, since the start"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="a JSON document for each look, on a line of its own; times in seconds",
    )
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=tuple(SORT_KEYS),
        default="time",
        help=f"of the functions: {', '.join(SORT_KEYS)} (time: what they have taken together)",
    )
    parser.add_argument(
        "--interval",
        metavar="S",
        type=seconds,
        default=INTERVAL,
        help=f"seconds between two looks ({INTERVAL:g})",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.once or options.json:
        _print(options)
        return 0
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("this is no terminal: --once and --json are for files and pipes")
    from importlib.util import find_spec

    if find_spec("rich") is None:
        raise UsageError(
            'rich is not installed: pip install "celery-pool[top]"; --once works without it'
        )
    from .top_live import show

    show(Watch(options.pid), max(SHORTEST, options.interval), options.sort)
    return 0


class Watch:
    """Look by look at the pools of a process, each compared with the one before."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._looks: dict[int, Look] = {}

    def look(self) -> list[PoolFigures]:
        """
        :raises NoPool: there is none any more.
        :raises PermissionError: it belongs to somebody else.
        """
        earlier = self._looks
        looks = [Look.at_pool(view) for view in pools_of(self.pid)]
        self._looks = {look.identity: look for look in looks}
        return [figures(look, earlier.get(look.identity)) for look in looks]


def _print(options: argparse.Namespace) -> None:
    for found in _looks(options):
        if options.json:
            pools = [document(one, options.sort) for one in found]
            text = json.dumps({"pid": options.pid, "time": time.time(), "pools": pools})
        else:
            from . import top_text

            text = "\n\n".join(top_text.of_pool(one, options.sort) for one in found)
        print(text, flush=True)


def _looks(options: argparse.Namespace) -> Iterator[list[PoolFigures]]:
    watch = Watch(options.pid)
    yield watch.look()
    while not options.once:
        time.sleep(max(SHORTEST, options.interval))
        yield watch.look()
