"""Round trip: one no-op task at a time, submit and wait for the result."""

import time

from contenders.base import Contender
from measure import LATENCIES, Parameters, Workload, percentiles, running
from task_bodies import noop


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    return {"one at a time": defaults}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    samples: list[float] = []
    now, round_trip = time.perf_counter, contender.round_trip
    with running(contender, parameters):
        for _ in range(100):
            round_trip(noop, ())
        deadline = now() + parameters.duration
        before = now()
        while before < deadline and len(samples) != parameters.tasks:
            round_trip(noop, ())
            after = now()
            samples.append(after - before)
            before = after
    return percentiles(samples)


WORKLOAD = Workload(
    name="round_trip",
    title="submit one no-op task and wait for its result",
    measures=LATENCIES,
    cases=cases,
    run=run,
)
