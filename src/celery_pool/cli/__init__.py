"""The command line `celery-pool`, also `python -m celery_pool`.

Each command is a module with `HELP`, one sentence, and `main(arguments) -> exit status`. It raises
`UsageError` for what the user can mend, and lets KeyboardInterrupt through.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from celery_pool.cli import map_command
from celery_pool.cli.usage import EXIT_INTERRUPTED, EXIT_USAGE, Parser, UsageError, say

COMMANDS = {"map": map_command}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status. To be called from the main thread."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_descriptors()
    command = "celery-pool"
    try:
        name = _parser().parse_args(arguments[:1]).command
        command = f"celery-pool {name}"
        status: int = COMMANDS[name].main(arguments[1:])
        return status
    except UsageError as error:
        say(command, f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="celery-pool",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description="A fast process pool, for people who write no program.",
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}  {module.HELP}" for name, module in COMMANDS.items())
        + "\n\n'celery-pool COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"celery-pool {_version()}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="what to do")
    return parser


def _version() -> str:
    from celery_pool import __version__

    return __version__


def _fill_standard_descriptors() -> None:
    """Opens those that the caller had closed, so that no file or pipe of ours gets their number."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
