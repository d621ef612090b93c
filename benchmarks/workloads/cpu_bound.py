"""Tasks that compute for 10 µs to 10 ms: how much of the machine is left for them.

A task is a fixed number of iterations, calibrated once a run on one idle core. `efficiency` is the
rate against that of this number of cores doing nothing else; `unpooled` (plain processes, no pool)
says what the machine really allows.
"""

import timeit
from dataclasses import replace

from contenders.base import Contender
from measure import Measure, Parameters, Workload, running, saturate
from task_bodies import burn

IN_FLIGHT = 64
PROBE_ITERATIONS = 20_000
MICROSECONDS = (10, 100, 1_000, 10_000)


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    # `iterations` is the nominal number of microseconds until `prepare` has calibrated it.
    return {
        f"{span:,} µs": replace(defaults, iterations=span, in_flight=IN_FLIGHT)
        for span in MICROSECONDS
    }


def prepare(parameters: Parameters) -> Parameters:
    seconds = parameters.iterations / 1e6
    probe = min(timeit.repeat(lambda: burn(PROBE_ITERATIONS), number=1, repeat=50))
    tasks = int(parameters.duration * parameters.processes / seconds)
    return replace(
        parameters, iterations=max(1, round(PROBE_ITERATIONS * seconds / probe)), tasks=tasks
    )


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    tasks = parameters.tasks
    assert tasks is not None
    with running(contender, parameters, warm=contender.name != "unpooled"):
        seconds = saturate(contender, tasks, burn, (parameters.iterations,))
    return {"rate": tasks / seconds, "efficiency": 100 * parameters.duration / seconds}


WORKLOAD = Workload(
    name="cpu_bound",
    title="tasks that compute, 64 in flight",
    measures={"rate": Measure("tasks/s", "higher"), "efficiency": Measure("%", "higher")},
    cases=cases,
    run=run,
    prepare=prepare,
)
