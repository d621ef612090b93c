"""No-op tasks with few in flight: a semaphore around pools without a limit of their own.

With as many in flight as processes nothing is ever queued, so that each task pays the whole way
there and back.
"""

from dataclasses import replace

from measure import Measure, Parameters, Workload
from workloads import saturated


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    # The target speaks of the worst of ten runs.
    limits = {"in flight = processes": defaults.processes}
    if not quick:
        limits |= {f"in flight {limit:,}": limit for limit in (16, 64, 1_000, 10_000)}
    return {name: replace(defaults, in_flight=limit) for name, limit in limits.items()}


WORKLOAD = Workload(
    name="limited",
    title="no-op tasks, a bounded number in flight",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=saturated.run,
)
