"""An idle pool: CPU time over ten seconds in which nothing is asked of it."""

import time
from dataclasses import replace

from contenders.base import Contender
from measure import CpuMeter, Measure, Parameters, Workload, running

SETTLE_SECONDS = 0.5


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    return {"10 s": replace(defaults, duration=10.0, rounds=1)}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    with running(contender, parameters):
        time.sleep(SETTLE_SECONDS)
        with CpuMeter() as cpu:
            time.sleep(parameters.duration)
    parent, workers = cpu.parent * 1e3, cpu.descendants * 1e3
    return {"parent": parent, "workers": workers, "total": parent + workers}


WORKLOAD = Workload(
    name="idle",
    title="CPU time of a pool that has nothing to do",
    measures={name: Measure("ms", "lower") for name in ("parent", "workers", "total")},
    cases=cases,
    run=run,
)
