"""Machine instructions that the parent executes for a task: a figure that hardly depends on load.

    python benchmarks/instructions.py            count them
    python benchmarks/instructions.py --store    and keep the figure of this Python
    python benchmarks/instructions.py --check    and fail if it is past 5 % of the kept one

Saturated no-op tasks, run twice under valgrind's callgrind with different numbers of tasks; the
difference of the counts, divided by that of the tasks, leaves start and end of the pool out. The
workers are spawned, so they run outside valgrind at full speed and the parent never waits for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import contenders
from measure import Parameters, saturate

FIGURES = Path(__file__).with_name("instructions.json")
FEW, MANY = 10_000, 40_000
WARM_UP = 2_000
TOLERANCE = 0.05


def main() -> int:
    options = parse_arguments()
    if options.run:
        run(options.contender, options.processes, options.run)
        return 0
    figure = per_task(options.contender, options.processes)
    key = f"{options.contender}, {options.processes} processes, {python_version()}"
    print(f"{key}: {figure:,.0f} instructions a task")
    figures: dict[str, float] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if options.store:
        figures[key] = round(figure)
        FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    if options.check:
        return check(figure, figures.get(key))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Instructions a task in the parent, by callgrind.")
    parser.add_argument("--contender", default="celery_pool", choices=contenders.MODULES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--store", action="store_true", help=f"keep the figure in {FIGURES.name}")
    parser.add_argument("--check", action="store_true", help="compare with the kept figure")
    parser.add_argument("--run", type=int, metavar="TASKS", help=argparse.SUPPRESS)  # the subject
    options = parser.parse_args()
    if not options.run and not shutil.which("valgrind"):
        parser.error("needs valgrind")
    return options


def run(contender: str, processes: int, tasks: int) -> None:
    """What callgrind watches."""
    parameters = Parameters(processes=processes, context="spawn")
    pool = contenders.load(contender)()
    pool.start(parameters.processes, parameters.in_flight, parameters.context)
    saturate(pool, WARM_UP)
    saturate(pool, tasks)
    pool.close()


def per_task(contender: str, processes: int) -> float:
    """The difference of two counts."""
    few, many = (count(contender, processes, tasks) for tasks in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def count(contender: str, processes: int, tasks: int) -> int:
    """Instructions of one whole run."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "callgrind.out")
        subject = [sys.executable, __file__, "--contender", contender]
        subject += ["--processes", str(processes), "--run", str(tasks)]
        valgrind = ["valgrind", "--tool=callgrind", "--trace-children=no", "--quiet"]
        subprocess.run(
            [*valgrind, f"--callgrind-out-file={output}", *subject],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        totals = re.search(r"^(?:totals|summary): (\d+)", output.read_text(), re.MULTILINE)
        assert totals is not None, "callgrind has written no total"
        return int(totals[1])


def python_version() -> str:
    """Figures of different Pythons or processors cannot be compared."""
    return f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"


def check(figure: float, kept: float | None) -> int:
    """Exit status."""
    if kept is None:
        print(f"no figure is kept for this Python: run with --store, and commit {FIGURES.name}")
        return 1
    change = figure / kept - 1
    print(f"kept: {kept:,.0f}; change {change:+.1%}, allowed {TOLERANCE:+.0%}")
    return int(change > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
