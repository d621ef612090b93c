"""The parent's bookkeeping alone, without processes: tid queue, limit check, reap, callback.

The queue is filled to one below its limit and then reaped; what the workers would do in between is
not timed.
"""

import time
from dataclasses import replace

from contenders.base import Bookkeeping, Contender
from measure import Measure, Parameters, Workload, counted

CYCLES = 200


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    return {
        "1,000 in flight": replace(
            defaults, in_flight=1_000, only=("celery_pool", "plain_taskpool")
        )
    }


def cycle(bookkeeping: Bookkeeping, tasks: int) -> tuple[float, float]:
    """Seconds to submit and seconds to reap so many tasks."""
    callback, done = counted(tasks)
    callbacks = [callback]
    now, submit = time.perf_counter, bookkeeping.submit
    begin = now()
    for _ in range(tasks):
        submit(callbacks)
    submitted = now()
    bookkeeping.finish_all()
    finished = now()
    while not done.is_set():
        bookkeeping.reap()
    return submitted - begin, now() - finished


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    limit = parameters.in_flight
    assert limit is not None
    bookkeeping = contender.bookkeeping(limit)
    cycle(bookkeeping, limit - 1)
    submit, reap = map(
        sum, zip(*(cycle(bookkeeping, limit - 1) for _ in range(CYCLES)), strict=True)
    )
    tasks = CYCLES * (limit - 1)
    return {
        "task": (submit + reap) / tasks * 1e9,
        "submit": submit / tasks * 1e9,
        "reap": reap / tasks * 1e9,
    }


WORKLOAD = Workload(
    name="bookkeeping",
    title="queue, limit check, reap and callback without processes",
    measures={name: Measure("ns/task", "lower") for name in ("task", "submit", "reap")},
    cases=cases,
    run=run,
)
