"""Saturated no-op: as many tasks as the pool takes, each with a callback that is counted.

Pools without a limit of their own run without one; ours has a limit of 100,000. The second case
sends a small argument there and back: what calls with arguments cost more.
"""

from dataclasses import replace

from contenders.base import Contender
from measure import Measure, Parameters, Workload, company, running, saturate, task_count
from task_bodies import echo, noop

GREETING = "a small argument"


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    usual = {"unbounded": defaults}
    return (
        usual if quick else {**usual, "unbounded, echo": replace(defaults, payload=len(GREETING))}
    )


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    with running(contender, parameters) as rate, company(parameters.company):
        tasks = task_count(parameters, rate)
        function, args = (echo, (GREETING,)) if parameters.payload else (noop, ())
        return {"rate": tasks / saturate(contender, tasks, function, args)}


WORKLOAD = Workload(
    name="saturated",
    title="no-op tasks as fast as the pool takes them, every callback counted",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=run,
)
