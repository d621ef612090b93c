"""What `--full` measures: every workload, with the peers that matter in each, in some 15 minutes.

Each contender in each case is measured in five rounds. `--everything` adds the other contenders and
cases, and takes hours.
"""

from collections.abc import Mapping

from workloads.facades import ROWS

OURS = "celery_pool"
OUR_POOL = "celery_pool.Pool"
OUR_EXECUTOR = "celery_pool.TaskPoolExecutor"
POOL = "multiprocessing"
FUTURES = "concurrent.futures"
PRODUCTS = (OURS, POOL, FUTURES, "billiard", "loky", "pebble", "mpire")
RAW = ("raw_pipe", "raw_shared")
MAIN = (OURS, POOL, FUTURES, "billiard")

ALL_CASES = "*"
Plan = Mapping[str, Mapping[str, tuple[str, ...]]]  # workload: case: contenders

PLAN: Plan = {
    "saturated": {"unbounded": (*PRODUCTS, "plain_taskpool", *RAW, "inline")},
    "limited": {
        "in flight = processes": (OURS, POOL, "billiard", *RAW),
        "in flight 64": MAIN,
        "in flight 64, all CPUs busy": MAIN,
        "in flight 1,000": MAIN,
        "in flight 10,000": MAIN,
    },
    "round_trip": {ALL_CASES: (*PRODUCTS, *RAW)},
    "bookkeeping": {ALL_CASES: (OURS, "plain_taskpool")},
    "in_flight": {ALL_CASES: (OURS,)},
    "paced": {
        "100/s": (OURS, POOL),
        "1,000/s": PRODUCTS,
        "10,000/s": MAIN,
        "500/s, busy": (OURS, POOL),
        "2,000/s, busy": (OURS, POOL, FUTURES),
        "10,000/s, busy": (OURS, POOL),
    },
    "idle": {ALL_CASES: (OURS, POOL)},
    "many_submitters": {"4 threads": MAIN},
    "facades": {name: (OURS, row.peer) for name, row in ROWS.items()},
    "asyncio_program": {"64 in flight": (OURS, POOL, FUTURES)},
    "cpu_bound": {
        "10 µs": (OURS, POOL, "unpooled"),
        "100 µs": (*MAIN, "unpooled"),
        "1,000 µs": (OURS, POOL, "unpooled"),
        "10,000 µs": (OURS, POOL, "unpooled"),
    },
    "skewed": {
        f"{long}{by}, in flight {limit}": contenders
        for by, contenders in {
            "": (OURS, OUR_EXECUTOR, POOL, FUTURES),
            ", 4 submitters": (OURS, OUR_EXECUTOR, POOL, FUTURES),
            ", imap_unordered": (OUR_POOL, POOL),
            ", asyncio": (OURS, POOL, FUTURES),
        }.items()
        for long in ("one long", "two long, 4 workers")
        for limit in ("8", "64", "1,000")
    },
    "many_workers": {ALL_CASES: (OURS, POOL)},
    "startup": {ALL_CASES: (OURS, POOL, FUTURES)},
    "payload": {
        **{f"{size} bytes both": (OURS, POOL) for size in ("1 KiB", "64 KiB", "1 MiB", "16 MiB")},
        "64 KiB ndarray both": (OURS, POOL),
        "1 MiB ndarray both": (OURS, POOL, "joblib", "copies"),
        "16 MiB ndarray both": (OURS, POOL, "joblib", "copies"),
        "100 MiB ndarray both": (OURS, POOL, "joblib", "copies"),
    },
    "kills": {ALL_CASES: (OURS,)},
    "replacement": {"fork": (OURS,)},
    "recycling": {ALL_CASES: (OURS, POOL)},
    "instructions": {ALL_CASES: (OURS,)},
}


def contenders_for(workload: str, case: str) -> tuple[str, ...]:
    """Those that `--full` measures in this case; none: not at all."""
    cases = PLAN.get(workload, {})
    return cases.get(case, cases.get(ALL_CASES, ()))
