"""From the SIGKILL of a pool's only worker to the result of a task on its successor.

Death has to be noticed, a process to be started, and the task to be run. Only for pools that
survive the death of a worker.
"""

import os
import signal
import statistics
import time
from dataclasses import replace

from contenders.base import Contender
from measure import Measure, Parameters, Workload, running
from task_bodies import noop

TIMES = 25


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    usual = replace(defaults, processes=1, only=("celery_pool", "pebble"))
    return {method: replace(usual, context=method) for method in ("fork", "forkserver", "spawn")}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    times = []
    with running(contender, parameters):
        for _ in range(TIMES):
            contender.round_trip(noop, ())  # so that the next one is not the death's victim
            (worker,) = contender.pids()
            begin = time.perf_counter()
            os.kill(worker, signal.SIGKILL)
            contender.round_trip(noop, ())
            times.append(time.perf_counter() - begin)
    return {"median": statistics.median(times) * 1e3, "longest": max(times) * 1e3}


WORKLOAD = Workload(
    name="replacement",
    title="a killed worker is replaced",
    measures={"median": Measure("ms", "lower"), "longest": Measure("ms", "lower")},
    cases=cases,
    run=run,
)
