"""Measures celery_pool and its peers side by side.

    python benchmarks/side_by_side.py                       less than two minutes
    python benchmarks/side_by_side.py --full --out FILE     some 15 minutes: all targets
    python benchmarks/side_by_side.py --everything          hours: all contenders in all cases
    python benchmarks/side_by_side.py --workload paced --contender celery_pool --contender pebble

The contenders take turns, round by round, each measurement in a process of its own, so that what
the machine does meanwhile meets all of them and none disturbs another. Ratios are those of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import contenders
import machine
import report
import workloads
from contenders.base import Contender
from full import contenders_for
from measure import Parameters, Workload
from results import Results, Sample

CELL = Path(__file__).with_name("cell.py")
CELL_TIMEOUT = 90  # seconds; a pool that hangs is a result, too
NO_END = f"no end within {CELL_TIMEOUT} s"
LEAST_ROUNDS = 5
DURATIONS = {"quick": 0.3, "full": 0.3, "everything": 1.0}  # seconds, of one measurement
INSTALL = 'pip install "celery-pool[bench]"'
# installed packages have their bytecode; a checkout's is to be kept, too
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
QUICK_CONTENDERS = ("celery_pool", "multiprocessing")
YARDSTICK = "plain_taskpool"  # quick measures it where a workload asks for it


def main() -> None:
    options = parse_arguments()
    results = Results(
        machine=machine.describe(),
        commit=machine.commit(),
        versions={},
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        options={name: value for name, value in vars(options).items() if name != "out"},
    )
    quick = options.size == "quick"
    usual = options.contender or (QUICK_CONTENDERS if quick else tuple(contenders.MODULES))
    also = (YARDSTICK,) if quick and not options.contender else ()
    available = installed((*usual, *also), results)
    results.versions = machine.versions(
        contender.distribution for contender in available.values() if contender.distribution
    )
    try:
        for workload, case, parameters in plan(options):
            results.parameters.setdefault(workload.name, {})[case] = asdict(parameters)
            wanted = parameters.only or usual
            names = [
                name
                for name, contender in available.items()
                if name in wanted and can_run(contender, workload, parameters)
            ]
            rounds = options.rounds or parameters.rounds or LEAST_ROUNDS
            hung = set[str]()
            for number, name in turns(names, rounds):
                if name in hung:
                    continue
                sample = run_cell(workload, case, parameters, name, number)
                results.samples.append(sample)
                show(sample, workload, rounds)
                if sample.error == NO_END:
                    hung.add(name)  # once is enough
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if options.out:
            results.save(options.out)
    if not results.samples:
        print("nothing to measure", file=sys.stderr)
        raise SystemExit(2)
    print("\n\n".join(report.markdown(results)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures celery_pool and its peers side by side.",
        epilog="Without a size and with --workload, all cases of that workload are measured.",
    )
    size = parser.add_mutually_exclusive_group()
    for name, text in (
        ("quick", "short measurements beside multiprocessing, less than two minutes (the default)"),
        ("full", "every workload beside the peers that matter, some 15 minutes"),
        ("everything", "all contenders in all cases, hours (the default with --workload)"),
    ):
        size.add_argument(f"--{name}", dest="size", action="store_const", const=name, help=text)
    parser.add_argument(
        "--workload",
        action="append",
        metavar="NAME[/CASE]",
        help=f"only this one (repeatable): {', '.join(workloads.NAMES)}",
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=contenders.MODULES,
        metavar="NAME",
        help=f"only this one (repeatable): {', '.join(contenders.MODULES)}",
    )
    parser.add_argument("--processes", type=int, default=2, help="worker processes (2)")
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"rounds of each measurement ({LEAST_ROUNDS}, unless a case has its own)",
    )
    parser.add_argument(
        "--duration",
        type=float,
        help="seconds, about, of one measurement (0.3; everything: 1)",
    )
    parser.add_argument(
        "--context",
        default="fork",
        choices=("fork", "forkserver", "spawn"),
        help="start method (fork)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the figures as JSON")
    options = parser.parse_args()
    for name in options.workload or ():
        if name.partition("/")[0] not in workloads.NAMES:
            parser.error(f"no workload {name!r}; there are {', '.join(workloads.NAMES)}")
    if options.processes < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("--processes and --rounds are at least 1")
    options.size = options.size or ("everything" if options.workload else "quick")
    options.duration = options.duration or DURATIONS[options.size]
    return options


def installed(names: Iterable[str], results: Results) -> dict[str, type[Contender]]:
    """The contenders that can be imported; of the others, why not."""
    available = {}
    for name in names:
        try:
            available[name] = contenders.load(name)
        except ImportError as error:
            hint = f" ({INSTALL})" if isinstance(error, ModuleNotFoundError) else ""
            results.skipped[name] = f"{error}{hint}"
            print(f"{name}: skipped, {results.skipped[name]}", file=sys.stderr)
    return available


def plan(options: argparse.Namespace) -> Iterator[tuple[Workload, str, Parameters]]:
    """The cases to measure, in order."""
    defaults = Parameters(
        processes=options.processes, duration=options.duration, context=options.context
    )
    wanted = options.workload or workloads.NAMES
    for workload in map(workloads.load, workloads.NAMES):
        cases = workload.cases(defaults, options.size == "quick")
        for case, parameters in cases.items():
            if workload.name not in wanted and f"{workload.name}/{case}" not in wanted:
                continue
            only = parameters.only
            if options.size == "full" and not options.contender:
                only = contenders_for(workload.name, case)
                if not only:
                    continue
            yield workload, case, workload.prepare(replace(parameters, only=only))


def can_run(contender: type[Contender], workload: Workload, parameters: Parameters) -> bool:
    """Is the contender made for this?"""
    return (
        (contender.only is None or workload.name in contender.only)
        and (parameters.kills == 0 or contender.survives_kill)
        and (parameters.recycle == 0 or contender.recycles)
        and (parameters.by != "imap_unordered" or contender.draws)
    )


def turns(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every contender in every round, each round beginning with the next of them."""
    for number in range(rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            yield number, name


def run_cell(
    workload: Workload, case: str, parameters: Parameters, contender: str, number: int
) -> Sample:
    """One measurement in a fresh process; nothing of its session is left afterwards."""
    request = {"contender": contender, "workload": workload.name, "parameters": asdict(parameters)}
    figures, error, begin = {}, None, time.monotonic()
    with subprocess.Popen(
        [sys.executable, str(CELL), json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            output, errors = process.communicate(timeout=CELL_TIMEOUT)
            if process.returncode:
                error = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            else:
                figures = json.loads(output.splitlines()[-1])
        except subprocess.TimeoutExpired:
            error = NO_END
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    took = round(time.monotonic() - begin, 3)
    return Sample(workload.name, case, contender, number, figures, error, took)


def show(sample: Sample, workload: Workload, rounds: int) -> None:
    """A line a measurement, to standard error."""
    figures = ", ".join(
        f"{name} {report.number(value)} {workload.measures[name].unit}"
        for name, value in sample.figures.items()
    )
    place = f"{sample.workload} / {sample.case} / {sample.contender}"
    print(
        f"[{sample.round + 1}/{rounds}] {place}: {sample.error or figures}",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
