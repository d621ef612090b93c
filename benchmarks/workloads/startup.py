"""Start-up: from making the pool to its first result and to its end, for each start method.

And what a program pays before that: the import of the pool, in an interpreter that has
imported nothing.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import replace

from contenders.base import Contender
from measure import Measure, Parameters, Workload, running
from task_bodies import noop

IMPORT = "import"
IMPORTS = 5  # interpreters, of one measurement
ROUNDS = 15  # a measurement is one pool


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    usual = replace(defaults, rounds=ROUNDS)
    methods = ("fork", "forkserver", "spawn")
    importable = ("celery_pool", "multiprocessing", "concurrent.futures")
    return {
        **{method: replace(usual, context=method) for method in methods},
        IMPORT: replace(defaults, context="", only=importable),
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    if not parameters.context:
        return {IMPORT: import_time(contender.imported) * 1e3}
    started = time.perf_counter()
    with running(contender, parameters, warm=False):
        contender.round_trip(noop, ())
        first = time.perf_counter() - started
    return {"first_result": first * 1e3, "end": (time.perf_counter() - started) * 1e3}


def import_time(statement: str) -> float:
    """Seconds, the median of some interpreters."""
    code = (
        f"import time; begin = time.perf_counter()\n{statement}\nprint(time.perf_counter() - begin)"
    )
    return statistics.median(
        float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(IMPORTS)
    )


WORKLOAD = Workload(
    name="startup",
    title="from making the pool to its first result and its end; its import",
    measures={
        "first_result": Measure("ms", "lower"),
        "end": Measure("ms", "lower"),
        IMPORT: Measure("ms", "lower"),
    },
    cases=cases,
    run=run,
)
