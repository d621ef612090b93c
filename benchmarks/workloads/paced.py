"""Paced arrivals: tasks come at a steady rate far below what the pool could do, as messages do.

Latency from submit to callback, and the CPU time that this costs the parent and all its
descendants. The submitting thread sleeps between arrivals; its own share is what `inline` shows.
`busy`: it computes instead, as a consumer does that parses messages; what has ended meanwhile can
be delivered at the next arrival, and not before.
Arrivals keep to the clock: after a late wake-up those that are due follow at once.
"""

import functools
import time
from dataclasses import replace
from typing import Any

from contenders.base import Contender, Task
from measure import (
    LATENCIES,
    CpuMeter,
    Measure,
    Parameters,
    Workload,
    counted,
    percentiles,
    running,
)
from task_bodies import noop, spin


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    duration = defaults.duration * (2 if quick else 4)
    rates = (1_000,) if quick else (100, 1_000, 10_000)
    sleeping = {
        f"{rate:,}/s": replace(defaults, arrivals=rate, duration=duration) for rate in rates
    }
    rates = (2_000,) if quick else (500, 2_000, 10_000)
    return sleeping | {
        f"{rate:,}/s, busy": replace(defaults, arrivals=rate, duration=duration, busy=True)
        for rate in rates
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    rate = parameters.arrivals
    tasks = parameters.tasks or int(rate * parameters.duration)
    latencies: list[float] = []
    now = time.perf_counter
    count, done = counted(tasks)
    wait = spin if parameters.busy else time.sleep

    def delivered(submitted: float, outcome: Any, meta: Any = None) -> None:
        latencies.append(now() - submitted)
        count()

    with running(contender, parameters):
        time.sleep(0.2)  # whatever the warm-up set spinning comes to rest
        with CpuMeter() as cpu:
            start = now()
            for index in range(tasks):
                pause = start + index / rate - now()
                if pause > 0:
                    wait(pause)
                contender.submit(Task(noop, (), functools.partial(delivered, now())))
            done.wait()  # not wait_all: nobody is to help here
            seconds = now() - start
    return {
        **percentiles(latencies),
        "cpu_parent": 100 * cpu.parent / seconds,
        "cpu_total": 100 * (cpu.parent + cpu.descendants) / seconds,
    }


WORKLOAD = Workload(
    name="paced",
    title="no-op tasks arriving at a steady rate: latency from submit to callback, and CPU time",
    measures={
        **LATENCIES,
        "cpu_parent": Measure("% of a core", "lower"),
        "cpu_total": Measure("% of a core", "lower"),
    },
    cases=cases,
    run=run,
)
