"""Machine instructions that the parent executes for a no-op task, counted by callgrind.

Two workers with 8 in flight, and 64 workers with 256: what more workers cost, whatever else the
machine does (instructions.py). Needs valgrind, and takes its time.
"""

from dataclasses import replace

import instructions
from contenders.base import Contender
from measure import Measure, Parameters, Workload

OURS = ("celery_pool",)


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        f"{processes} processes, in flight {in_flight}": replace(
            defaults, processes=processes, in_flight=in_flight, rounds=1, only=OURS
        )
        for processes, in_flight in ((2, 8), (64, 256))
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    if not instructions.has_valgrind():
        raise NotImplementedError("needs valgrind")
    counts = instructions.per_task(
        contender.name, parameters.processes, parameters.in_flight, pairs=1
    )
    return {"instructions": counts.total()}


WORKLOAD = Workload(
    name="instructions",
    title="machine instructions of the parent for a no-op task",
    measures={"instructions": Measure("instructions/task", "lower")},
    cases=cases,
    run=run,
)
