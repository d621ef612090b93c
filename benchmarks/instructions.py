"""Machine instructions of the parent for a task, and the cache lines that it has to fetch for them:
figures that hardly depend on load.

    python benchmarks/instructions.py                count them
    python benchmarks/instructions.py --functions    and list the functions that execute them
                                                     (--into FILE: in a document as well)
    python benchmarks/instructions.py --store        and the lines, and keep what was counted
    python benchmarks/instructions.py --check        and fail if they are past the kept ones
    python benchmarks/instructions.py --processes 64 --in-flight 256

No-op tasks, run twice under valgrind's callgrind with different numbers of tasks; the difference of
the counts, divided by that of the tasks, leaves start and end of the pool out. The workers are
spawned, so they run outside valgrind at full speed, some fifty times faster than the parent. It
would find each result as soon as it has submitted the task and be charged for looking at every
single one. So a worker alone, whose tasks are unbounded, sleeps after each burst of them for
longer than the parent needs to submit as many: tasks queue, and results come in bursts, as in a
pool that is saturated. The guard compares that case; its counts differ by some tenths of a percent
from run to run and from machine to machine, others by some percent. Of several such pairs the least
counts: what a wait adds is the machine's, not the code's. Cache lines are those that a first-level
cache of 32 KiB does not hold; that other processors have written to a line meanwhile is not seen.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import contenders
import guard
from measure import Parameters, saturate
from task_bodies import in_bursts, noop

FIGURES = Path(__file__).with_name("instructions.json")
FEW, MANY = 5_000, 25_000
WARM_UP = 2_000
PAIRS = 2
TOP = 25  # functions shown
INSTRUCTIONS = ("Ir",)  # callgrind's names
CACHE_LINES = ("D1mr", "D1mw")
CACHES = ("--cache-sim=yes", "--D1=32768,8,64", "--LL=8388608,16,64")  # the same on every machine


def main() -> int:
    options = parse_arguments()
    if options.run:
        run(options.contender, options.processes, options.in_flight, options.run)
        return 0
    environment = guard.environment(core())
    case = case_name(options.contender, options.processes, options.in_flight)
    by_function = per_task(options.contender, options.processes, options.in_flight)
    count = by_function.total()
    print(f"{case}: {count:,.0f} instructions a task", flush=True)
    if options.functions:
        table = functions_table(by_function)
        print(f"\n{table}\n")
        if options.into:
            put_into(options.into, f"{case}, {environment}:\n\n{table}")
    if not options.check and not options.store:
        return 0
    lines = per_task(options.contender, options.processes, options.in_flight, events=CACHE_LINES)
    counts = {guard.INSTRUCTIONS: count, guard.CACHE_LINES: lines.total()}
    failed = False
    if options.check:
        for unit, counted in counts.items():
            verdict = guard.compare(case, counted, unit, environment, guard.load(FIGURES))
            print(verdict.text)
            failed |= verdict.failed
        if environment not in guard.load(FIGURES):
            print("`make perf-guard ARGS=--store` before a change stores figures to compare with")
    if options.store:
        for unit, counted in counts.items():
            guard.store(case, counted, unit, environment, FIGURES)
    return int(failed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Instructions a task in the parent, by callgrind.")
    parser.add_argument("--contender", default="celery_pool", choices=contenders.MODULES)
    parser.add_argument("--processes", type=int, default=1, help="worker processes (1)")
    parser.add_argument("--in-flight", type=int, help="most tasks in flight (unbounded)")
    parser.add_argument("--functions", action="store_true", help="list where instructions go")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put that list there, too")
    parser.add_argument("--store", action="store_true", help=f"keep the figure in {FIGURES.name}")
    parser.add_argument("--check", action="store_true", help="compare with the kept figure")
    parser.add_argument("--run", type=int, metavar="TASKS", help=argparse.SUPPRESS)  # the subject
    options = parser.parse_args()
    if not options.run and not has_valgrind():
        if options.check and not options.store:
            print("not compared: needs valgrind")
            raise SystemExit(0)
        parser.error("needs valgrind")
    return options


def has_valgrind() -> bool:
    """Is it there?"""
    return shutil.which("valgrind") is not None


def core() -> Path:
    """The compiled core."""
    import celery_pool._poolcore

    return Path(str(celery_pool._poolcore.__file__))


def case_name(contender: str, processes: int, in_flight: int | None) -> str:
    """Under which a figure is stored."""
    return f"{contender}, processes {processes}, in flight {in_flight or 'unbounded'}"


def run(contender: str, processes: int, in_flight: int | None, tasks: int) -> None:
    """What callgrind watches."""
    parameters = Parameters(processes=processes, in_flight=in_flight, context="spawn")
    pool = contenders.load(contender)()
    pool.start(parameters.processes, parameters.in_flight, parameters.context)
    saturate(pool, WARM_UP)
    saturate(pool, tasks, in_bursts if (processes, in_flight) == (1, None) else noop)
    pool.close()


def per_task(
    contender: str,
    processes: int,
    in_flight: int | None,
    pairs: int = PAIRS,
    events: tuple[str, ...] = INSTRUCTIONS,
) -> Counter[str]:
    """Such events a task by function: the difference of two runs; the least of so many pairs."""
    counts = []
    for _ in range(pairs):
        few, many = (count(contender, processes, in_flight, tasks, events) for tasks in (FEW, MANY))
        many.subtract(few)
        counts.append(Counter({name: n / (MANY - FEW) for name, n in many.items()}))  # type: ignore[misc]
    return min(counts, key=Counter.total)


def count(
    contender: str, processes: int, in_flight: int | None, tasks: int, events: tuple[str, ...]
) -> Counter[str]:
    """Events of one whole run, by function."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "callgrind.out")
        subject = [sys.executable, __file__, "--contender", contender, "--run", str(tasks)]
        subject += ["--processes", str(processes)]
        if in_flight:
            subject += ["--in-flight", str(in_flight)]
        valgrind = ["valgrind", "--tool=callgrind", "--trace-children=no", "-q"]
        if events != INSTRUCTIONS:
            valgrind += CACHES
        done = subprocess.run(
            [*valgrind, f"--callgrind-out-file={output}", *subject],
            capture_output=True,  # valgrind complains of system calls that are new to it
            text=True,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        if done.returncode:
            raise RuntimeError(f"the run under callgrind has failed:\n{done.stderr}")
        return own_costs(output.read_text(errors="replace"), events)


def own_costs(profile: str, events: tuple[str, ...] = INSTRUCTIONS) -> Counter[str]:
    """Each function's own events, from a profile in callgrind's format.

    Lines of interest: `fn=(id) name` begins a function, `ob=(id) name` tells its binary,
    `calls=...` announces that the next line is what a call cost, and `position counts` are costs as
    `events: ...` names them (those at the end may be missing: 0).
    A name is given with its id's first use only.
    """
    costs: Counter[str] = Counter()
    names: dict[str, dict[str, str]] = {"fn": {}, "ob": {}}
    here = {"fn": "?", "ob": "?"}
    columns: list[int] = []
    skip = False
    for line in profile.splitlines():
        if line.startswith("events:"):
            columns = [line.split().index(name) for name in events]
            continue
        mark = re.match(r"c?(fn|ob)=\((\d+)\)(?: (.*))?", line)
        if mark:
            kind, number, name = mark.groups()
            if name is not None:
                names[kind][number] = name
            if not line.startswith("c"):
                here[kind] = names[kind][number]
        elif line.startswith("calls="):
            skip = True
        elif re.match(r"[+\-*\d]", line):
            if not skip:
                binary = Path(here["ob"]).name
                given = line.split()
                spent = sum(int(given[at]) for at in columns if at < len(given))
                costs[f"{here['fn']} [{binary.partition('.')[0]}]"] += spent
            skip = False
    return costs


def functions_table(by_function: Counter[str]) -> str:
    """The functions that cost most, as a Markdown table."""
    import report

    total = by_function.total()
    rows = []
    top = by_function.most_common(TOP)
    for name, cost in [*top, ("all others", total - sum(cost for _, cost in top))]:
        rows.append([f"`{name}`", f"{cost:,.0f}", f"{cost / total:.1%}"])
    return report.table(["function [binary]", "instructions a task", "share"], rows)


def put_into(path: Path, text: str) -> None:
    """Into the document's place for `functions`."""
    import report

    document = path.read_text(encoding="utf-8")
    path.write_text(report.put(document, "functions", text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
