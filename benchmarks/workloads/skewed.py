"""Long tasks beside a stream of short ones that never ends: nobody may wait behind a long one.

The long ones hold their workers for the whole measurement, while short ones keep coming as fast as
the pool takes them, so that no worker is ever idle. `slowest` is the longest time from submit to
callback of a short one; with `in_flight` of them always there it cannot be less than their number
times their length, over the workers that are left.
"""

import functools
import time
from dataclasses import replace
from typing import Any

from contenders.base import Contender, Task
from measure import LATENCIES, Measure, Parameters, Workload, counted, percentiles, running
from task_bodies import nap, spin

SHORT = 20e-6  # seconds of CPU time


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    one, two = replace(defaults, long_tasks=1), replace(defaults, processes=4, long_tasks=2)
    if quick:
        return {"one long, in flight 64": replace(one, in_flight=64)}
    return {
        "one long, in flight 8": replace(one, in_flight=8),
        "one long, in flight 64": replace(one, in_flight=64),
        "one long, in flight 1,000": replace(one, in_flight=1_000),
        "two long, 4 workers, in flight 64": replace(two, in_flight=64),
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    latencies: list[float] = []
    now = time.perf_counter
    ended, done = counted(parameters.long_tasks)

    def delivered(submitted: float, outcome: Any, meta: Any = None) -> None:
        latencies.append(now() - submitted)

    with running(contender, parameters):
        for _ in range(parameters.long_tasks):
            contender.submit(Task(nap, (2 * parameters.duration,), ended))
        start = now()
        end = start + parameters.duration
        while now() < end:
            contender.submit(Task(spin, (SHORT,), functools.partial(delivered, now())))
        rate = len(latencies) / (now() - start)
        contender.wait_all(done)
    return {"rate": rate, **percentiles(latencies), "slowest": 1e3 * max(latencies)}


WORKLOAD = Workload(
    name="skewed",
    title="a stream of tasks of 20 µs beside long ones",
    measures={
        "rate": Measure("tasks/s", "higher"),
        **LATENCIES,
        "slowest": Measure("ms", "lower"),
    },
    cases=cases,
    run=run,
)
