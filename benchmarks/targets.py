"""The speed to reach: each target is a figure of a run, a bound for it, and what we aim at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from results import Key, Spread
from workloads.facades import ROWS

OURS = "celery_pool"
POOL = "multiprocessing"
FUTURES = "concurrent.futures"
PEERS = ("multiprocessing", "concurrent.futures", "billiard", "loky", "pebble", "mpire")

Summary = Mapping[Key, Spread]


@dataclass(frozen=True)
class Figure:
    """What is compared with a bound: `of` gives None where the run has not measured it."""

    of: Callable[[Summary], float | None]
    unit: str = "x"


@dataclass(frozen=True)
class Bound:
    """A figure is to be at least or at most so much."""

    figure: Figure
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Is that good enough?"""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True)
class Target:
    """A bound that has to be met, and those that would be good."""

    text: str
    bound: Bound
    aims: tuple[Bound, ...] = ()


# ---- figures ----


def _median(workload: str, case: str, measure: str, contender: str = OURS) -> Figure:
    def of(summary: Summary) -> float | None:
        spread = summary.get(Key(workload, case, measure, contender))
        return None if spread is None else spread.median

    return Figure(of)


def _quotient(upper: Figure, lower: Figure) -> Figure:
    def of(summary: Summary) -> float | None:
        above, below = upper.of(summary), lower.of(summary)
        return None if above is None or not below else above / below

    return Figure(of)


def _against(peer: str, workload: str, case: str, measure: str) -> Figure:
    """Our median divided by the peer's."""
    return _quotient(
        _median(workload, case, measure), _median(workload, case, measure, contender=peer)
    )


def _against_best(workload: str, case: str, measure: str) -> Figure:
    """Our median divided by the lowest of all peers' that were measured."""

    def of(summary: Summary) -> float | None:
        keys = (Key(workload, case, measure, peer) for peer in PEERS)
        return min((summary[key].median for key in keys if key in summary), default=None)

    return _quotient(_median(workload, case, measure), Figure(of))


def _worst(workload: str, case: str, measure: str, least_rounds: int) -> Figure:
    """The lowest of our runs divided by their median."""

    def of(summary: Summary) -> float | None:
        spread = summary.get(Key(workload, case, measure, OURS))
        enough = spread is not None and spread.rounds >= least_rounds
        return spread.min / spread.median if spread is not None and enough else None

    return Figure(of)


def _in(unit: str, figure: Figure) -> Figure:
    return Figure(figure.of, unit)


# ---- targets ----


def _rate(
    text: str, peer: str, workload: str, case: str, at_least: float, aim: float | None = None
) -> Target:
    figure = _against(peer, workload, case, "rate")
    return Target(
        f"{text}: rate against {peer}",
        Bound(figure, at_least=at_least),
        () if aim is None else (Bound(figure, at_least=aim),),
    )


def _cost(
    text: str,
    peer: str,
    workload: str,
    case: str,
    measure: str,
    at_most: float,
    aim: float | None = None,
) -> Target:
    figure = _against(peer, workload, case, measure)
    return Target(
        f"{text} against {peer}",
        Bound(figure, at_most=at_most),
        () if aim is None else (Bound(figure, at_most=aim),),
    )


def _paced(rate: str) -> tuple[Target, Target]:
    latency = _in("µs", _median("paced", rate, "p50"))
    return (
        Target(
            f"{rate} arriving: p50 from submit to callback against the best peer's",
            Bound(_against_best("paced", rate, "p50"), at_most=1 / 4),
            (Bound(latency, at_most=20),),
        ),
        _cost(
            f"{rate} arriving: CPU time of all processes", POOL, "paced", rate, "cpu_total", 1 / 2
        ),
    )


_SATURATED = ("saturated", "unbounded")
_FEW = ("limited", "in flight = processes")
_KILLS = "kills"
_PAYLOAD = "payload"
_NDARRAY_100 = "100 MiB ndarray both"
_UNPOOLED = _against("unpooled", "cpu_bound", "100 µs", "rate")
_WORKERS = _quotient(
    _median("instructions", "64 processes, in flight 256", "instructions"),
    _median("instructions", "2 processes, in flight 8", "instructions"),
)
_SURVIVED = _quotient(
    _median(_KILLS, "a kill a second", "rate"), _median(_KILLS, "undisturbed", "rate")
)
_COPIES = _against("copies", _PAYLOAD, _NDARRAY_100, "p50")


def _busy(rate: str, interval: float) -> tuple[Target, Target]:
    """`interval`: between two arrivals, in µs."""
    case = f"{rate}, busy"
    median = _in("µs", _median("paced", case, "p50"))
    return (
        Target(
            f"{rate} arriving, a busy submitter: p50 from submit to callback",
            Bound(median, at_most=interval + 100),
        ),
        Target(
            f"{rate} arriving, a busy submitter: p99",
            Bound(_in("µs", _median("paced", case, "p99")), at_most=3_000),
        ),
    )


def _recycled(case: str, at_least: float) -> Target:
    return Target(
        f"tasks of 1 ms, recycled {case}: rate against never",
        Bound(
            _quotient(_median("recycling", case, "rate"), _median("recycling", "never", "rate")),
            at_least=at_least,
        ),
    )


def _slowest(by: str, contender: str = OURS) -> tuple[Target, ...]:
    """Of all streams that are made so. With 1,000 in flight they take longer by themselves."""
    through = "" if contender == OURS else f", {contender}"
    return tuple(
        Target(
            f"{case}{through}: the slowest short task",
            Bound(slowest, at_most=20),
            (Bound(slowest, at_most=5),),
        )
        for long in ("one long", "two long, 4 workers")
        for limit in ("8", "64")
        for case in (f"{long}{by}, in flight {limit}",)
        for slowest in (_in("ms", _median("skewed", case, "slowest", contender)),)
    )


def _awaited(case: str, at_least: float, aim: float) -> Target:
    rate = _in("tasks/s", _median("asyncio_program", case, "rate"))
    return Target(
        f"asyncio, {case}: rate against {FUTURES} by run_in_executor",
        Bound(_against(FUTURES, "asyncio_program", case, "rate"), at_least=at_least),
        (Bound(rate, at_least=aim),),
    )


def _saturated(at_least: float) -> Target:
    figure = _against(POOL, *_SATURATED, "rate")
    rate = _in("tasks/s", _median(*_SATURATED, "rate"))
    return Target(
        f"no-op, limit 100,000: rate against {POOL}",
        Bound(figure, at_least=at_least),
        (Bound(figure, at_least=28), Bound(rate, at_least=1_000_000)),
    )


def targets(python: tuple[int, ...]) -> tuple[Target, ...]:
    """Those of a run by that version of Python."""
    return (_saturated(18 if python >= (3, 13) else 20), *_TARGETS)


_TARGETS = (
    _rate("no-op, in flight = 2", POOL, *_FEW, at_least=70, aim=120),
    _rate("no-op, in flight = 2", "billiard", *_FEW, at_least=40),
    Target(
        "no-op, in flight = 2: the worst of 10 runs against their median",
        Bound(_worst(*_FEW, "rate", least_rounds=10), at_least=1 / 2),
    ),
    _cost("round trip: p50", POOL, "round_trip", "one at a time", "p50", 1 / 60, aim=1 / 120),
    _cost("round trip: p99", POOL, "round_trip", "one at a time", "p99", 1 / 50, aim=1 / 400),
    *_paced("1,000/s"),
    *_paced("10,000/s"),
    *_busy("500/s", 2_000),
    *_busy("2,000/s", 500),
    *_busy("10,000/s", 100),
    *(_rate(case, row.peer, "facades", case, row.at_least, row.aim) for case, row in ROWS.items()),
    _awaited("64 in flight", 50, 600_000),
    *_slowest(""),
    *_slowest(", 4 submitters"),
    *_slowest("", "celery_pool.TaskPoolExecutor"),
    *_slowest(", imap_unordered", "celery_pool.Pool"),
    *_slowest(", asyncio"),
    _recycled("every 100", 0.97),
    _recycled("every 10", 0.85),
    _recycled("every task", 0.3),
    _rate("tasks of 1 ms, recycled every task", POOL, "recycling", "every task", at_least=1.2),
    *(
        _cost(f"{method}, from making a pool to {what}: time", POOL, "startup", method, measure, 1)
        for method in ("fork", "forkserver", "spawn")
        for measure, what in (("first_result", "its first result"), ("end", "its end"))
    ),
    _cost("import of the pool: time", POOL, "startup", "import", "import", 1),
    _rate("4 submitting threads, in flight 64", POOL, "many_submitters", "4 threads", 40, aim=90),
    Target(
        "tasks of 100 µs, in flight 64: rate against plain processes without a pool",
        Bound(_UNPOOLED, at_least=0.97),
        (Bound(_UNPOOLED, at_least=0.98),),
    ),
    Target(
        "parent's instructions a task: 64 processes against 2",
        Bound(_WORKERS, at_most=1.25),
        (Bound(_WORKERS, at_most=1.1),),
    ),
    Target(
        "parent's CPU time a task: 1,000,000 in flight against 1,000",
        Bound(
            _quotient(
                _median("in_flight", "1,000,000 in flight", "cpu"),
                _median("in_flight", "1,000 in flight", "cpu"),
            ),
            at_most=1.05,
        ),
    ),
    Target(
        "parent's memory a task with 1,000,000 in flight",
        Bound(_in("bytes", _median("in_flight", "1,000,000 in flight", "bytes")), at_most=300),
    ),
    Target(
        "a SIGKILL a second: rate against the undisturbed one",
        Bound(_SURVIVED, at_least=0.9),
        (Bound(_SURVIVED, at_least=0.97),),
    ),
    Target(
        "idle: CPU time of parent and workers in 10 s",
        Bound(_in("ms", _median("idle", "10 s", "total")), at_most=1),
    ),
    Target(
        "100 MiB array there and back: time against two plain copies",
        Bound(_COPIES, at_most=1.5),
        (Bound(_COPIES, at_most=1.1),),
    ),
    _cost("100 MiB array there and back: time", "joblib", _PAYLOAD, _NDARRAY_100, "p50", 1 / 10),
    _cost("100 MiB array there and back: time", POOL, _PAYLOAD, _NDARRAY_100, "p50", 1 / 15),
    _cost("1 MiB array there and back: time", POOL, _PAYLOAD, "1 MiB ndarray both", "p50", 1 / 5),
    _cost(
        "64 KiB of bytes there and back: time",
        POOL,
        _PAYLOAD,
        "64 KiB bytes both",
        "p50",
        1 / 6,
        aim=1 / 8,
    ),
    Target(
        "bookkeeping: a task in plain Python against ours",
        Bound(
            _quotient(
                _median("bookkeeping", "1,000 in flight", "task", "plain_taskpool"),
                _median("bookkeeping", "1,000 in flight", "task"),
            ),
            at_least=10,
        ),
    ),
)
