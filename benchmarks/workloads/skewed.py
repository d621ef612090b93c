"""Long tasks beside a stream of short ones that never ends: nobody may wait behind a long one.

The long ones hold their workers for the whole measurement, while short ones keep coming as fast as
the pool takes them, so that no worker is ever idle. `slowest` is the longest time from submit to
callback of a short one, with imap_unordered from when it draws an item to its result, and on
asyncio from a call to its result. With `in_flight` of them always there it cannot be less than
their number times their length, over the workers that are left.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from contenders.base import AwaitableCall, Contender, Task
from measure import LATENCIES, Measure, Parameters, Workload, counted, percentiles, running
from task_bodies import Item, nap, spin, take_item

SHORT = 20e-6  # seconds of CPU time
LIMITS = (8, 64, 1_000)
ENDLESS = 2  # how much longer than the measurement a long task is


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    one, two = replace(defaults, long_tasks=1), replace(defaults, processes=4, long_tasks=2)
    if quick:
        return {"one long, in flight 64": replace(one, in_flight=64)}
    programs = {
        "one long": one,
        "two long, 4 workers": two,
        "one long, 4 submitters": replace(one, submitters=4),
        "two long, 4 workers, 4 submitters": replace(two, submitters=4),
        "one long, imap_unordered": replace(one, by="imap_unordered"),
        "two long, 4 workers, imap_unordered": replace(two, by="imap_unordered"),
        "one long, asyncio": replace(one, by="asyncio"),
        "two long, 4 workers, asyncio": replace(two, by="asyncio"),
    }
    return {
        f"{program}, in flight {limit:,}": replace(parameters, in_flight=limit)
        for program, parameters in programs.items()
        for limit in LIMITS
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    if parameters.by == "asyncio":
        return asyncio.run(_await_calls(contender, parameters))
    by = _draw_items if parameters.by == "imap_unordered" else _submit
    with running(contender, parameters):
        return by(contender, parameters)


def _figures(latencies: list[float], seconds: float) -> dict[str, float]:
    return {
        "rate": len(latencies) / seconds,
        **percentiles(latencies),
        "slowest": 1e3 * max(latencies),
    }


def _submit(contender: Contender, parameters: Parameters) -> dict[str, float]:
    latencies: list[float] = []
    now = time.perf_counter
    ended, done = counted(parameters.long_tasks)

    def delivered(submitted: float, outcome: Any, meta: Any = None) -> None:
        latencies.append(now() - submitted)

    for _ in range(parameters.long_tasks):
        contender.submit(Task(nap, (ENDLESS * parameters.duration,), ended))
    start = now()
    end = start + parameters.duration

    def submit() -> None:
        while now() < end:
            contender.submit(Task(spin, (SHORT,), functools.partial(delivered, now())))

    if parameters.submitters == 1:
        submit()
    else:
        with ThreadPoolExecutor(parameters.submitters) as submitters:
            for submitted in [submitters.submit(submit) for _ in range(parameters.submitters)]:
                submitted.result()
    figures = _figures(latencies, now() - start)
    contender.wait_all(done)
    return figures


def _draw_items(contender: Contender, parameters: Parameters) -> dict[str, float]:
    assert parameters.in_flight is not None
    latencies: list[float] = []
    now = time.perf_counter
    slots = threading.Semaphore(parameters.in_flight)
    start = now()
    end = start + parameters.duration

    def items() -> Iterator[Item]:
        for _ in range(parameters.long_tasks):
            slots.acquire()
            yield Item(ENDLESS * parameters.duration, now(), True)
        while now() < end:
            slots.acquire()
            yield Item(SHORT, now(), False)

    for item in contender.unordered(take_item, items()):
        slots.release()
        if not item.long:
            latencies.append(now() - item.drawn)
            last = now()
    return _figures(latencies, last - start)


async def _await_calls(contender: Contender, parameters: Parameters) -> dict[str, float]:
    assert parameters.in_flight is not None
    latencies: list[float] = []
    now = time.perf_counter

    async def stream(call: AwaitableCall, end: float) -> None:
        begin = now()
        while begin < end:
            await call(spin, SHORT)
            latencies.append(now() - begin)
            begin = now()

    pool = contender.on_asyncio(parameters.processes, parameters.in_flight, parameters.context)
    async with pool as call:
        await asyncio.gather(*(call(spin, SHORT) for _ in range(parameters.in_flight)))  # warm
        long = [
            asyncio.ensure_future(call(nap, ENDLESS * parameters.duration))
            for _ in range(parameters.long_tasks)
        ]
        start = now()
        end = start + parameters.duration
        streams = parameters.in_flight - parameters.long_tasks
        await asyncio.gather(*(stream(call, end) for _ in range(streams)))
        seconds = now() - start
        await asyncio.gather(*long)
    return _figures(latencies, seconds)


WORKLOAD = Workload(
    name="skewed",
    title="a stream of tasks of 20 µs beside long ones",
    measures={
        "rate": Measure("tasks/s", "higher"),
        **LATENCIES,
        "slowest": Measure("ms", "lower"),
    },
    cases=cases,
    run=run,
)
