"""The cost of a task with 100 to 1,000,000 in flight.

The workers are held by SIGSTOP while the pool is filled to one below its limit, so that this many
tasks really are in flight. Then they go on, and so does the submitter, for as many tasks as it
takes to fill the duration. That is repeated CYCLES times.

`cpu` is the parent's CPU time, of all its threads, for a task from submission to callback: unlike
the time that passes it does not depend on how far the workers keep up. `fill` is the time of one
submission while the workers are held, the best of the cycles. `bytes` is what the parent's private
memory grew by, for each task, when the pool was first filled.
"""

import time
from dataclasses import replace

from contenders.base import Contender, Task
from measure import Measure, Parameters, Workload, frozen, private_bytes, running, tally, task_count
from task_bodies import noop

PEERS = ("celery_pool", "multiprocessing", "plain_taskpool")
PEERS_DEPTH = 100_000  # beyond, they take minutes
LARGE = 100_000  # from here on the growth of memory is well above its noise
CYCLES = 3
SETTLE_SECONDS = 0.01  # until what the workers had finished is collected


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        usual = replace(defaults, only=("celery_pool",))
        return {_name(depth): replace(usual, in_flight=depth) for depth in (1_000, 1_000_000)}
    return {
        _name(depth): replace(
            defaults, in_flight=depth, only=PEERS if depth <= PEERS_DEPTH else ("celery_pool",)
        )
        for depth in (100, 1_000, 10_000, 100_000, 1_000_000)
    }


def _name(depth: int) -> str:
    return f"{depth:,} in flight"


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    depth = parameters.in_flight
    assert depth is not None
    with running(contender, parameters) as rate:
        further = task_count(parameters, rate) // CYCLES
        callback, delivered = tally()
        task = Task(noop, (), callback)
        submitted, cpu = 0, 0.0
        fills, growth = list[float](), list[int]()
        for _ in range(CYCLES):
            with frozen(contender.pids()) as thaw:
                time.sleep(SETTLE_SECONDS)
                free = depth - 1 - (submitted - delivered.count())
                memory, cpu_begin, begin = private_bytes(), time.process_time(), time.perf_counter()
                contender.submit_many(task, free)
                fills.append((time.perf_counter() - begin) / free * 1e9)
                growth.append(private_bytes() - memory)
                thaw()
                contender.submit_many(task, further)
                submitted += free + further
                cpu += time.process_time() - cpu_begin
        cpu_begin = time.process_time()
        contender.wait_all(delivered.all_of(submitted))
        cpu += time.process_time() - cpu_begin
    figures = {"cpu": cpu / submitted * 1e9, "fill": min(fills)}
    if depth >= LARGE:
        figures["bytes"] = growth[0] / depth  # later fills use memory again
    return figures


WORKLOAD = Workload(
    name="in_flight",
    title="cost of a no-op task with many in flight",
    measures={
        "cpu": Measure("ns/task", "lower"),
        "fill": Measure("ns/task", "lower"),
        "bytes": Measure("bytes/task", "lower"),
    },
    cases=cases,
    run=run,
)
