"""Tasks of 1 ms while workers are recycled after so many of them, and without that."""

import time
from dataclasses import replace

from contenders.base import Contender, Task
from measure import Measure, Parameters, Workload, counted, running

MILLISECOND = 0.001


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    usual = replace(defaults, in_flight=8)
    return {
        "never": usual,
        "every 100": replace(usual, recycle=100),
        "every 10": replace(usual, recycle=10),
        "every task": replace(usual, recycle=1),
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    contender.recycle_after(parameters.recycle)
    tasks = max(200, int(parameters.duration * 1000))
    with running(contender, parameters):
        callback, done = counted(tasks)
        begin = time.perf_counter()
        contender.submit_many(Task(time.sleep, (MILLISECOND,), callback), tasks)
        contender.wait_all(done)
        seconds = time.perf_counter() - begin
    return {"rate": tasks / seconds}


WORKLOAD = Workload(
    name="recycling",
    title="tasks of 1 ms while workers are recycled",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=run,
)
