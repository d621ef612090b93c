"""Where each nanosecond of a no-op task goes, step by step.

    python benchmarks/where_it_goes.py               a Markdown table
    python benchmarks/where_it_goes.py --into FILE   into the document's place for `nanoseconds`

Each step is timed alone, by the side of the others, without another process: a worker's end of the
rings is driven by hand. What a whole task costs comes last, with two workers at work. Best of
several rounds: what a step costs when nothing disturbs it.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import contenders
import machine
import report
import rings
from contenders.ours import CompiledBookkeeping
from measure import Parameters as Measurement
from measure import counted, running, saturate, task_count
from task_bodies import echo, noop

TASKS = 500
ROUNDS = 300
ARGUMENT = ("a small argument",)


def main() -> None:
    parser = argparse.ArgumentParser(description="What each step of a no-op task costs.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each step ({ROUNDS})")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the table there")
    options = parser.parse_args()
    rows = [[step, f"{ns:,.0f}", where] for step, where, ns in steps(options.rounds)]
    table = report.table(["step", "ns a task", "where"], rows)
    described = machine.describe()
    text = (
        f"{described['cpu']}, {described['python']}, commit {machine.commit() or 'unknown'}, "
        f"load before the run {described['load']}.\n\n{table}"
    )
    if options.into:
        document = options.into.read_text(encoding="utf-8")
        options.into.write_text(report.put(document, "nanoseconds", text), encoding="utf-8")
    else:
        print(text)


def steps(rounds: int) -> Iterator[tuple[str, str, float]]:
    """What is done, in which process, and nanoseconds a task."""
    plain = bare_steps(noop, (), rounds)
    loaded = bare_steps(echo, ARGUMENT, rounds)
    lanes = rings.Lanes(1)
    claim = best(rounds, lambda: rings.library().claim_many(TASKS))
    publish = best(rounds, lambda: rings.library().publish_many(TASKS), after=lanes.consume_all)
    consume = best(rounds, lanes.consume_all, before=lambda: rings.library().publish_many(TASKS))
    parent, worker = "parent", "worker"
    yield "`apply_async`: record, limit check, journal, frame, publish", parent, plain["submit"]
    yield "of it: a frame reserved and published, in C alone", parent, publish
    yield "encode a small argument, besides", parent, loaded["submit"] - plain["submit"]
    yield "serve: take the frame, claim, call, finish, publish", worker, plain["serve"]
    yield "of it: the claim word taken and finished, in C alone", worker, claim
    yield (
        "decode the argument and encode it as result, besides",
        worker,
        (loaded["serve"] - plain["serve"]),
    )
    yield "`reap`: collect, take out of the journal, callback", parent, plain["reap"]
    yield "of it: a frame taken off a ring, in C alone", parent, consume
    yield "of it: the callback itself, which counts", parent, callback_cost(rounds)
    yield "decode the result, besides", parent, loaded["reap"] - plain["reap"]
    yield "sum of the parent's steps", parent, plain["submit"] + plain["reap"]
    seconds, cpu = whole(rounds)
    yield "a whole task, two workers, saturated: CPU time of the parent", parent, cpu
    yield "the same: time that passes", "all", seconds


def bare_steps(
    function: Callable[..., object], args: tuple[object, ...], rounds: int
) -> dict[str, float]:
    """Submit, serve and reap: the parent's side and, in this process too, the worker's."""
    least = dict.fromkeys(("submit", "serve", "reap"), float("inf"))
    now = time.perf_counter_ns
    gc.disable()
    for _ in range(rounds):
        driven = CompiledBookkeeping(TASKS + 1)
        for _ in range(3):  # memory and rings have been used before
            for _ in range(TASKS):
                driven.submit([counted(0)[0]])
            driven.finish_all()
            driven.reap()
        callback, done = counted(TASKS)
        callbacks = [callback]
        begin = now()
        driven.submit_calls(function, args, callbacks, TASKS)
        submitted = now()
        driven.serve()
        served = now()
        driven.reap()
        reaped = now()
        assert done.is_set(), "tasks have failed"
        for name, ns in (
            ("submit", submitted - begin),
            ("serve", served - submitted),
            ("reap", reaped - served),
        ):
            least[name] = min(least[name], ns / TASKS)
    gc.enable()
    return least


def callback_cost(rounds: int) -> float:
    """What counting costs."""
    callback, _ = counted(-1)

    def call() -> None:
        for _ in range(TASKS):
            callback(None, None)

    return best(rounds, call)


def whole(rounds: int) -> tuple[float, float]:
    """Nanoseconds that pass for a task of a saturated pool, and CPU time of the parent for it."""
    pool = contenders.load("celery_pool")()
    least = float("inf"), float("inf")
    with running(pool, Measurement(duration=0.4)) as rate:
        tasks = task_count(Measurement(duration=0.4), rate)
        for _ in range(max(3, rounds // 60)):
            cpu = time.process_time_ns()
            seconds = saturate(pool, tasks)
            least = min(least, (seconds / tasks * 1e9, (time.process_time_ns() - cpu) / tasks))
    return least


def best(
    rounds: int,
    step: Callable[[], object],
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> float:
    """Nanoseconds for each of TASKS, in the best round."""
    least = float("inf")
    for _ in range(rounds):
        before()
        begin = time.perf_counter_ns()
        step()
        least = min(least, (time.perf_counter_ns() - begin) / TASKS)
        after()
    return least


if __name__ == "__main__":
    main()
