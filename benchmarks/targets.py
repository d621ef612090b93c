"""The speed to reach: each target names two figures of a run, or one, and a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from results import Key, Spread

OURS = "celery_pool"
THEIRS = "multiprocessing"


@dataclass(frozen=True)
class Target:
    """`figure`, divided by `against` if given, is to be at least or at most so much."""

    text: str
    figure: Key
    against: Key | None
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None  # where we would like to be
    unit: str = "x"

    def measured(self, summary: Mapping[Key, Spread]) -> float | None:
        """The ratio of medians, or the median; None if the run has not measured it."""
        keys = [self.figure] if self.against is None else [self.figure, self.against]
        if any(key not in summary for key in keys):
            return None
        value = summary[self.figure].median
        return value if self.against is None else value / summary[self.against].median

    def met(self, value: float) -> bool:
        """Is that good enough?"""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


def _against_peer(
    text: str,
    workload: str,
    case: str,
    measure: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    aim: float | None = None,
) -> Target:
    figure, against = (Key(workload, case, measure, contender) for contender in (OURS, THEIRS))
    return Target(text, figure, against, at_least=at_least, at_most=at_most, aim=aim)


TARGETS = (
    _against_peer(
        "no-op, in flight unbounded: rate against multiprocessing.Pool",
        "saturated",
        "unbounded",
        "rate",
        at_least=15,
        aim=28,
    ),
    _against_peer(
        "no-op, in flight = processes: rate against multiprocessing.Pool with a semaphore",
        "limited",
        "in flight = processes",
        "rate",
        at_least=40,
        aim=120,
    ),
    _against_peer(
        "round trip: p50 against multiprocessing.Pool",
        "round_trip",
        "one at a time",
        "p50",
        at_most=1 / 25,
        aim=1 / 120,
    ),
    Target(
        "bookkeeping: the time a task takes in plain Python against ours",
        Key("bookkeeping", "1,000 in flight", "task", "plain_taskpool"),
        Key("bookkeeping", "1,000 in flight", "task", OURS),
        at_least=10,
    ),
    Target(
        "parent's CPU time a task with 1,000,000 in flight against 1,000",
        Key("in_flight", "1,000,000 in flight", "cpu", OURS),
        Key("in_flight", "1,000 in flight", "cpu", OURS),
        at_most=1.2,
    ),
    _against_peer(
        "paced 1,000/s: p50 from submit to callback against multiprocessing.Pool",
        "paced",
        "1,000/s",
        "p50",
        at_most=1 / 4,
    ),
    _against_peer(
        "paced 1,000/s: CPU time of all processes against multiprocessing.Pool",
        "paced",
        "1,000/s",
        "cpu_total",
        at_most=1 / 2,
    ),
    Target(
        "idle: CPU time of parent and workers over 10 s",
        Key("idle", "10 s", "total", OURS),
        None,
        at_most=5,
        unit="ms",
    ),
)
