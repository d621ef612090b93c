"""Payloads of 1 KiB to 100 MiB, bytes and numpy arrays, there, back and both: one at a time."""

import itertools
import statistics
import time
from dataclasses import replace

from contenders.base import Contender, Function
from measure import Measure, Parameters, Workload, running
from task_bodies import echo, make_payload, size_of

SIZES = {"1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24, "100 MiB": 100 * 2**20}
LEAST_TRIPS = 3


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        f"{size} {kind} {direction}": replace(
            defaults, payload=SIZES[size], payload_kind=kind, direction=direction
        )
        for size, kind, direction in itertools.product(
            SIZES, ("bytes", "ndarray"), ("there", "back", "both")
        )
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    size, kind = parameters.payload, parameters.payload_kind
    functions: dict[str, Function] = {"there": size_of, "back": make_payload, "both": echo}
    function = functions[parameters.direction]
    back = parameters.direction == "back"
    arguments = (size, kind) if back else (make_payload(size, kind),)
    now, samples = time.perf_counter, list[float]()
    with running(contender, parameters, warm=False):
        for _ in range(2 * parameters.processes):  # every worker has met the payload
            contender.round_trip(function, arguments)
        deadline = now() + parameters.duration
        while len(samples) < LEAST_TRIPS or now() < deadline:
            before = now()
            contender.round_trip(function, arguments)
            samples.append(now() - before)
    median = statistics.median(samples)
    moved = size * (2 if parameters.direction == "both" else 1)
    return {"p50": median * 1e6, "bandwidth": moved / median / 1e6}


WORKLOAD = Workload(
    name="payload",
    title="one task at a time that carries data",
    measures={"p50": Measure("µs", "lower"), "bandwidth": Measure("MB/s", "higher")},
    cases=cases,
    run=run,
)
