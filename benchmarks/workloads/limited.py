"""No-op tasks with few in flight: a semaphore around pools without a limit of their own.

With as many in flight as processes nothing is ever queued, so that each task pays the whole way
there and back.
"""

import os
from dataclasses import replace

from measure import Measure, Parameters, Workload
from workloads import saturated

ROUNDS = 10  # for few in flight: is the worst run far from the others?


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    few = replace(defaults, in_flight=defaults.processes, rounds=ROUNDS)
    more = () if quick else (16, 64, 1_000, 10_000)
    crowded = () if quick else (64,)
    cpus = len(os.sched_getaffinity(0))
    return {
        "in flight = processes": few,
        **{f"in flight {limit:,}": replace(defaults, in_flight=limit) for limit in more},
        **{
            f"in flight {limit}, all CPUs busy": replace(defaults, in_flight=limit, company=cpus)
            for limit in crowded
        },
    }


WORKLOAD = Workload(
    name="limited",
    title="no-op tasks, a bounded number in flight",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=saturated.run,
)
