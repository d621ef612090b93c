"""No-op tasks without end while a worker gets SIGKILL once a second, and the same undisturbed.

Only for pools that say they survive the death of a worker; one that then stops for good is shown
so. `lost` counts the tasks that failed with their worker.
"""

import contextlib
import os
import random
import signal
import threading
import time
from dataclasses import replace
from typing import Any

from contenders.base import Contender, Task
from measure import Measure, Parameters, Workload, running
from task_bodies import noop

BATCH = 100
LEAST_SECONDS = 4.0  # some kills


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    usual = replace(defaults, in_flight=1_000, duration=max(LEAST_SECONDS, defaults.duration * 5))
    return {"undisturbed": usual, "a kill a second": replace(usual, kills=1.0)}


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    succeeded: list[bool] = []  # one a task; append and len need no lock
    stop = threading.Event()

    def finished(outcome: Any, meta: Any = None) -> None:
        is_failed_future = hasattr(outcome, "exception") and outcome.exception() is not None
        succeeded.append(not is_failed_future)

    def failed(outcome: Any, meta: Any = None) -> None:
        succeeded.append(False)

    task = Task(noop, (), finished, failed)

    def killer() -> None:
        while parameters.kills and not stop.wait(1 / parameters.kills):
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(random.choice(contender.pids()), signal.SIGKILL)

    with running(contender, parameters):
        thread = threading.Thread(target=killer)
        started = time.perf_counter()
        thread.start()
        submitted = 0
        while time.perf_counter() - started < parameters.duration:
            for _ in range(BATCH):
                contender.submit(task)
            submitted += BATCH
        stop.set()
        thread.join()
        while len(succeeded) < submitted:
            time.sleep(0.001)
        seconds = time.perf_counter() - started
    return {"rate": submitted / seconds, "lost": succeeded.count(False)}


WORKLOAD = Workload(
    name="kills",
    title="no-op tasks while workers are killed",
    measures={"rate": Measure("tasks/s", "higher"), "lost": Measure("tasks", "lower")},
    cases=cases,
    run=run,
)
