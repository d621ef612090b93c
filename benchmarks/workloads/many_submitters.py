"""Several threads submit no-op tasks to one pool, with 64 in flight in all."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from contenders.base import Contender, Task
from measure import Measure, Parameters, Workload, counted, running, task_count
from task_bodies import noop


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        f"{threads} threads": replace(defaults, submitters=threads, in_flight=64)
        for threads in (2, 4)
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    threads = parameters.submitters
    with running(contender, parameters) as rate, ThreadPoolExecutor(threads) as submitters:
        share = task_count(parameters, rate) // threads
        callback, done = counted(share * threads)
        task = Task(noop, (), callback)
        started = time.perf_counter()
        waiting = [submitters.submit(contender.submit_many, task, share) for _ in range(threads)]
        for submitted in waiting:
            submitted.result()
        contender.wait_all(done)
        return {"rate": share * threads / (time.perf_counter() - started)}


WORKLOAD = Workload(
    name="many_submitters",
    title="no-op tasks submitted by several threads, 64 in flight",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=run,
)
