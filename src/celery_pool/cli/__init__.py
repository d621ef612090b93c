"""The command line `celery-pool`, also `python -m celery_pool`.

Each command is a module, `NAME_command`, with `HELP`, one sentence, and `main(arguments) -> exit
status`. It raises `UsageError` for what the user can mend, and lets KeyboardInterrupt through. Only
the one that is asked for is imported.

Here nearly all imports are inside functions, so that a Ctrl-C during them ends quietly, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from .usage import Parser

COMMANDS = ("bench", "map", "stack", "top", "trace")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status. To be called from the main thread."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    from .usage import EXIT_USAGE, UsageError, say

    _fill_standard_descriptors()
    command = "celery-pool"
    try:
        name = arguments[0] if arguments else ""
        if name not in COMMANDS:
            name = _parser().parse_args(arguments[:1]).command
        command = f"celery-pool {name}"
        status: int = _module(name).main(arguments[1:])
        return status
    except UsageError as error:
        say(command, f"error: {error}")
        return EXIT_USAGE


def _module(name: str) -> ModuleType:
    from importlib import import_module

    return import_module(f".{name}_command", __name__)


def _parser() -> Parser:
    import argparse

    from .. import __version__
    from .usage import Parser

    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="celery-pool",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="A fast process pool, for people who write no program.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {_module(name).HELP}" for name in COMMANDS)
        + "\n\n'celery-pool COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"celery-pool {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="what to do")
    return parser


def _fill_standard_descriptors() -> None:
    """Opens those that the caller had closed, so that no file or pipe of ours gets their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
