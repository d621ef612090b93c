"""No-op tasks on 1 to 64 processes, four in flight for each: what more workers cost the parent."""

from dataclasses import replace

from measure import Measure, Parameters, Workload
from workloads import saturated


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        f"{processes} processes": replace(defaults, processes=processes, in_flight=4 * processes)
        for processes in (1, 2, 4, 16, 64)
    }


WORKLOAD = Workload(
    name="many_workers",
    title="no-op tasks on many processes, four in flight for each",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=saturated.run,
)
