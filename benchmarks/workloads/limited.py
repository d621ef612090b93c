"""No-op tasks with few in flight: a semaphore around pools without a limit of their own.

With as many in flight as processes nothing is ever queued, so that each task pays the whole way
there and back.
"""

from dataclasses import replace

from measure import Measure, Parameters, Workload
from workloads import saturated

ROUNDS = 10  # for few in flight: is the worst run far from the others?


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    few = replace(defaults, in_flight=defaults.processes, rounds=ROUNDS)
    more = () if quick else (16, 64, 1_000, 10_000)
    return {
        "in flight = processes": few,
        **{f"in flight {limit:,}": replace(defaults, in_flight=limit) for limit in more},
    }


WORKLOAD = Workload(
    name="limited",
    title="no-op tasks, a bounded number in flight",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=saturated.run,
)
