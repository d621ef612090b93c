"""Calls by the standard library's interfaces (and joblib's), beside who implements them first.

Each row of ROWS is a way to call: `go` carries out `items` calls in one go and looks at every
result. It is repeated until the duration is over; `rate` is calls a second, from the first to
the last result of all repetitions.
"""

from __future__ import annotations

import collections
import concurrent.futures
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from contenders.base import Contender
from measure import Measure, Parameters, Workload, company
from task_bodies import echo, noop

OURS = "celery_pool"
FIRST = {  # whom an interface is from
    "pool": "multiprocessing",
    "executor": "concurrent.futures",
    "joblib": "joblib",
}


@dataclass(frozen=True)
class Row:
    """One way to call."""

    interface: str  # see Contender.facade
    items: int
    go: Callable[[Any, int], object]  # (pool, executor or Parallel, items)
    at_least: float  # the target: our rate against that of whom the interface is from
    aim: float | None = None
    company: int = 0  # CPUs on which something else computes

    @property
    def peer(self) -> str:
        """The contender that the target is about."""
        return FIRST[self.interface]


# ---- multiprocessing.Pool ----


def _apply(pool: Any, items: int) -> None:
    for _ in range(items):
        pool.apply(noop)


def _apply_async(pool: Any, items: int) -> None:
    for result in [pool.apply_async(noop) for _ in range(items)]:
        result.get()


def _map(chunksize: int | None) -> Callable[[Any, int], None]:
    def go(pool: Any, items: int) -> None:
        assert len(pool.map(echo, _numbers(items), chunksize)) == items

    return go


def _starmap(pool: Any, items: int) -> None:
    assert len(pool.starmap(noop, [(number,) for number in _numbers(items)])) == items


def _imap(method: str, chunksize: int) -> Callable[[Any, int], None]:
    def go(pool: Any, items: int) -> None:
        results = getattr(pool, method)(echo, _numbers(items), chunksize)
        assert sum(1 for _ in results) == items

    return go


# ---- concurrent.futures.Executor ----


def _one_by_one(executor: Any, items: int) -> None:
    for _ in range(items):
        executor.submit(noop).result()


def _submit_and_wait(executor: Any, items: int) -> None:
    futures = [executor.submit(noop) for _ in range(items)]
    done, _ = concurrent.futures.wait(futures)
    assert len(done) == items


def _as_completed(executor: Any, items: int) -> None:
    futures = [executor.submit(noop) for _ in range(items)]
    assert sum(1 for _ in concurrent.futures.as_completed(futures)) == items


def _executor_map(executor: Any, items: int) -> None:
    collections.deque(executor.map(echo, _numbers(items)), maxlen=0)


# ---- joblib ----


def _delayed(parallel: Any, items: int) -> None:
    import joblib

    call = joblib.delayed(noop)
    assert len(parallel(call(number) for number in range(items))) == items


ROWS = {
    "Pool.apply": Row("pool", 200, _apply, 80, 200),
    "Pool.apply, one CPU busy": Row("pool", 200, _apply, 30, company=1),
    "Pool.apply_async, 10,000, get each": Row("pool", 10_000, _apply_async, 30),
    "Pool.map, chunksize 1": Row("pool", 10_000, _map(1), 30, 60),
    "Pool.imap, chunksize 1": Row("pool", 10_000, _imap("imap", 1), 30, 60),
    "Pool.imap_unordered, chunksize 1": Row("pool", 10_000, _imap("imap_unordered", 1), 30, 60),
    "Pool.map, 1,000,000 items": Row("pool", 1_000_000, _map(None), 2.5),
    "Pool.starmap, 100,000 items": Row("pool", 100_000, _starmap, 2.5),
    "Pool.imap, chunksize 100": Row("pool", 100_000, _imap("imap", 100), 4),
    "Executor.submit, one at a time": Row("executor", 200, _one_by_one, 50, 150),
    "Executor.submit, 10,000, wait": Row("executor", 10_000, _submit_and_wait, 40, 80),
    "Executor.submit, as_completed": Row("executor", 10_000, _as_completed, 30),
    "Executor.map, chunksize 1": Row("executor", 10_000, _executor_map, 60, 120),
    "joblib, 100,000 delayed": Row("joblib", 100_000, _delayed, 5),
}


def cases(defaults: Parameters, quick: bool) -> dict[str, Parameters]:
    if quick:
        return {}
    return {
        name: replace(
            defaults, row=name, tasks=row.items, company=row.company, only=(OURS, row.peer)
        )
        for name, row in ROWS.items()
    }


def run(contender: Contender, parameters: Parameters) -> dict[str, float]:
    row = ROWS[parameters.row]
    items = parameters.tasks or row.items
    with contender.facade(row.interface, parameters.processes, parameters.context) as facade:
        row.go(facade, max(1, items // 10))  # a warm-up: the workers are there
        with company(parameters.company):
            begin = now = time.perf_counter()
            calls = 0
            while now - begin < parameters.duration:
                row.go(facade, items)
                calls += items
                now = time.perf_counter()
    return {"rate": calls / (now - begin)}


_lists: dict[int, list[int]] = {}


def _numbers(items: int) -> list[int]:
    """The same list each time: making it is nobody's work."""
    if items not in _lists:
        _lists[items] = list(range(items))
    return _lists[items]


WORKLOAD = Workload(
    name="facades",
    title="calls by the interfaces of multiprocessing.Pool, Executor and joblib",
    measures={"rate": Measure("tasks/s", "higher")},
    cases=cases,
    run=run,
)
