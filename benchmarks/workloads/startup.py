"""Start-up: from making the pool to the first result, for each start method."""

import time
from dataclasses import replace

from contenders.base import Contender
from measure import Measure, Parameters, Workload, running
from task_bodies import noop


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {method: replace(defaults, context=method) for method in ("fork", "forkserver", "spawn")}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    started = time.perf_counter()
    with running(contender, parameters, warm=False):
        contender.round_trip(noop, ())
        seconds = time.perf_counter() - started
    return {"first_result": seconds * 1e3}


WORKLOAD = Workload(
    name="startup",
    title="from starting the pool to its first result",
    measures={"first_result": Measure("ms", "lower")},
    cases=cases,
    run=run,
)
