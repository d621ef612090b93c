"""`celery-pool stack PID`: where in their Python code a program with a pool and its workers are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..observe.facts import WorkerInfo
from ..observe.figures import Look
from ..observe.outside import pools_of
from ..observe.stacks import NoAnswer, stacks_of
from .onlooking import check_output, onlooker, politely, printable
from .top_text import duration
from .usage import EXIT_FAILED, Parser, positive, say

COMMAND = "celery-pool stack"
HELP = "show the Python stacks of a program with a pool, and of its workers"
AT_REST = ("idle", "spare")
NO_PYTHON = "  (no Python code of the program's)\n"


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_output()
    return politely(COMMAND, lambda: _run(options))


def _parser() -> Parser:
    parser = onlooker(
        COMMAND,
        "Shows the Python stacks of the workers that run a task, or start, and of all "
        "threads of the program. They answer by a signal handler in C, also where the program "
        "hangs in C code.",
        "a process has not answered, or there is no pool that one may look into",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--worker", metavar="PID", type=positive, help="only of this worker")
    group.add_argument("--all", action="store_true", help="of idle workers, too")
    return parser


def _run(options: argparse.Namespace) -> int:
    titles = {}
    for look in map(Look.at_pool, pools_of(options.pid)):
        for worker in look.workers:
            if _wanted(worker, options):
                titles[worker.pid] = _title(look.name, worker)
    if options.worker is None:
        titles[options.pid] = f"process {options.pid}, which runs the pool"
    elif not titles:
        say(COMMAND, f"process {options.worker} is no worker of process {options.pid}")
        return EXIT_FAILED
    answers = stacks_of(titles)
    status = 0
    for pid, title in titles.items():
        answer = answers[pid]
        if isinstance(answer, NoAnswer):
            say(COMMAND, f"process {pid} {answer}")
            status = EXIT_FAILED
        else:
            print(f"{title}\n{_clean(answer)}", flush=True)
    return status


def _wanted(worker: WorkerInfo, options: argparse.Namespace) -> bool:
    if options.worker is not None:
        return bool(worker.pid == options.worker)
    return bool(worker.pid) and (options.all or worker.state not in AT_REST)


def _title(pool: str, worker: WorkerInfo) -> str:
    title = f"worker {worker.pid} of {printable(pool)}, {worker.state}"
    if worker.tid is not None:
        title += (
            f": task {worker.tid}, {printable(worker.function)}, for {duration(worker.running_for)}"
        )
    return title


def _clean(text: str) -> str:
    """A worker may have written anything there. What is left of an idle one, or of one whose task
    is a C function, is a heading."""
    lines = text.splitlines()
    after = [*lines[1:], ""]
    return "".join(
        printable(line) + "\n" + NO_PYTHON * (line.endswith(":") and not next_line)
        for line, next_line in zip(lines, after, strict=False)
    )
