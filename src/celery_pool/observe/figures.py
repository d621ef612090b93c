"""What `celery-pool top` shows: a look at a pool, or what has happened between two of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .facts import FunctionStatistics, Ledger, WorkerInfo
from .histogram import Histogram
from .outside import OutsideView


@dataclass(frozen=True)
class Look:
    """A pool at one moment."""

    identity: int
    at: float  # monotonic seconds
    ledger: Ledger
    functions: dict[str, FunctionStatistics]
    workers: list[WorkerInfo]
    story: dict[str, Any]

    @classmethod
    def at_pool(cls, view: OutsideView) -> Look:
        return cls(
            identity=view.identity,
            at=time.monotonic(),
            ledger=view.ledger(),
            functions=view.functions(),
            workers=view.workers(),
            story=view.story(),
        )

    @property
    def ended(self) -> int:
        """Tasks, however."""
        return self.ledger.succeeded + self.ledger.failed

    @property
    def name(self) -> str:
        return str(self.story.get("name", "a pool that starts"))

    @property
    def uptime(self) -> float | None:
        """Seconds since its start; None: it has not told yet."""
        started = self.story.get("started")
        return max(0.0, time.time() - started) if isinstance(started, (int, float)) else None


@dataclass(frozen=True)
class FunctionFigures:
    """Of one function, within the time that is shown."""

    name: str
    count: int
    rate: float | None  # a second
    failed: int
    share: float  # of the time that all functions have taken, 0 to 1
    run: Histogram
    wait: Histogram


@dataclass(frozen=True)
class PoolFigures:
    """One pool; what is counted: since its start, or within an interval."""

    look: Look
    seconds: float | None  # how long that is; None: not known
    since_start: bool
    rate: float | None  # tasks that have ended, a second
    functions: list[FunctionFigures]


def figures(now: Look, earlier: Look | None = None) -> PoolFigures:
    """What has happened from one look to the other; without an earlier one, since the start."""
    seconds = now.uptime if earlier is None else now.at - earlier.at
    ended = now.ended - (0 if earlier is None else earlier.ended)
    lines = [
        _line(one, None if earlier is None else earlier.functions.get(name), seconds)
        for name, one in now.functions.items()
    ]
    total = sum(line.run.total for line in lines)
    return PoolFigures(
        look=now,
        seconds=seconds,
        since_start=earlier is None,
        rate=_rate(ended, seconds),
        functions=[
            dataclasses.replace(line, share=line.run.total / total if total else 0.0)
            for line in lines
            if line.count or earlier is None
        ],
    )


def _line(
    now: FunctionStatistics, earlier: FunctionStatistics | None, seconds: float | None
) -> FunctionFigures:
    run, wait, failed = now.run, now.wait, now.failed
    if earlier is not None:
        run, wait = run.minus(earlier.run), wait.minus(earlier.wait)
        failed = max(0, failed - earlier.failed)
    count = run.count
    return FunctionFigures(now.name, count, _rate(count, seconds), failed, 0.0, run, wait)


def _rate(count: int, seconds: float | None) -> float | None:
    return max(0, count) / seconds if seconds else None


#: By what functions are sorted, largest first but for the name: what each stands for.
SORT_KEYS: dict[str, Callable[[FunctionFigures], Any]] = {
    "time": lambda line: line.run.total,
    "name": lambda line: line.name,
    "rate": lambda line: line.count,
    "failed": lambda line: line.failed,
    "run50": lambda line: _number(line.run.quantile(0.5)),
    "run99": lambda line: _number(line.run.quantile(0.99)),
    "wait50": lambda line: _number(line.wait.quantile(0.5)),
    "wait99": lambda line: _number(line.wait.quantile(0.99)),
}


def in_order(
    lines: list[FunctionFigures], key: str, reverse: bool = False
) -> list[FunctionFigures]:
    """Sorted by one of SORT_KEYS."""
    return sorted(lines, key=SORT_KEYS[key], reverse=(key != "name") != reverse)


def _number(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def document(one: PoolFigures, key: str = "time") -> dict[str, Any]:
    """As JSON has it; times in seconds, None where there is nothing."""
    ledger = dataclasses.asdict(one.look.ledger)
    return {
        "name": one.look.name,
        "uptime": one.look.uptime,
        "interval": None if one.since_start else one.seconds,
        "rate": one.rate,
        **ledger,
        "functions": [
            {
                "name": line.name,
                "count": line.count,
                "rate": line.rate,
                "failed": line.failed,
                "share": line.share,
                "run": _times(line.run),
                "wait": _times(line.wait),
            }
            for line in in_order(one.functions, key)
        ],
        "workers": [dataclasses.asdict(worker) for worker in one.look.workers],
        "exits": one.look.story.get("exits", {}),
        "recent": one.look.story.get("recent", []),
    }


def _times(histogram: Histogram) -> dict[str, float | int | None]:
    count = histogram.count
    return {
        "count": count,
        "total": histogram.total,
        "mean": histogram.mean if count else None,
        "p50": histogram.quantile(0.5) if count else None,
        "p99": histogram.quantile(0.99) if count else None,
        "max": histogram.quantile(1.0) if count else None,
    }
