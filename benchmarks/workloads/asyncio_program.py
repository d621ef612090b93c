"""A program on asyncio: coroutines that call no-op tasks, each awaiting its result before the next.

Executors are used by `loop.run_in_executor`, pools with callbacks by `call_soon_threadsafe` into a
future, ours by `celery_pool.aio.AsyncTaskPool`. As many coroutines as tasks are to be in flight.
"""

import asyncio
import time
from dataclasses import replace

from contenders.base import AwaitableCall, Contender
from measure import LATENCIES, Measure, Parameters, Workload, percentiles
from task_bodies import noop

WARM_UP_SECONDS = 0.2


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        f"{coroutines:,} in flight": replace(defaults, in_flight=coroutines)
        for coroutines in (1, 64, 1_000)
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    return asyncio.run(_program(contender, parameters))


async def _program(contender: Contender, parameters: Parameters) -> dict[str, float]:
    coroutines = parameters.in_flight
    assert coroutines is not None
    pool = contender.on_asyncio(parameters.processes, coroutines, parameters.context)
    async with pool as call:
        await _run(call, coroutines, WARM_UP_SECONDS)
        started = time.perf_counter()
        latencies = await _run(call, coroutines, parameters.duration)
        seconds = time.perf_counter() - started
    return {"rate": len(latencies) / seconds, **percentiles(latencies)}


async def _run(call: AwaitableCall, coroutines: int, duration: float) -> list[float]:
    now, latencies = time.perf_counter, list[float]()
    deadline = now() + duration

    async def caller() -> None:
        begin = now()
        while begin < deadline:
            await call(noop)
            end = now()
            latencies.append(end - begin)
            begin = end

    await asyncio.gather(*(caller() for _ in range(coroutines)))
    return latencies


WORKLOAD = Workload(
    name="asyncio_program",
    title="no-op tasks awaited by coroutines",
    measures={"rate": Measure("tasks/s", "higher"), **LATENCIES},
    cases=cases,
    run=run,
)
