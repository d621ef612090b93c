"""One long task and many short ones: nobody may wait behind the long one.

A worker sleeps for the whole duration while no-op tasks go through the others; `rate` is that of
the short ones, and `behind` how many of them were still unfinished when the long one ended.
"""

import itertools
import time
from dataclasses import replace
from typing import Any

from contenders.base import Contender, Task
from measure import Measure, Parameters, Workload, counted, running
from task_bodies import nap, noop

SHORT_TASKS_SHARE = 0.25  # of what the pool could do while the long task runs


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    return {} if quick else {"one long": replace(defaults, in_flight=1_000)}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    with running(contender, parameters) as rate:
        tasks = max(100, int(rate * parameters.duration * SHORT_TASKS_SHARE))
        finished = itertools.count()
        behind: list[int] = []
        callback, done = counted(tasks + 1)
        last = [0.0]

        def short(outcome: Any, meta: Any = None) -> None:
            next(finished)
            last[0] = time.perf_counter()
            callback()

        def long(outcome: Any, meta: Any = None) -> None:
            behind.append(tasks - next(finished))
            callback()

        started = time.perf_counter()
        contender.submit(Task(nap, (parameters.duration,), long))
        contender.submit_many(Task(noop, (), short), tasks)
        contender.wait_all(done)
    return {"rate": tasks / (last[0] - started), "behind": behind[0]}


WORKLOAD = Workload(
    name="skewed",
    title="no-op tasks beside one long task",
    measures={"rate": Measure("tasks/s", "higher"), "behind": Measure("tasks", "lower")},
    cases=cases,
    run=run,
)
