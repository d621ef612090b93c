"""The words and numbers of `celery-pool top`, as plain text."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..observe.facts import WorkerInfo
from ..observe.figures import FunctionFigures, PoolFigures, in_order
from .onlooking import printable

#: (title, key that sorts by it)
FUNCTION_COLUMNS = (
    ("function", "name"),
    ("tasks", "rate"),
    ("a second", ""),
    ("failed", "failed"),
    ("time", "time"),
    ("run p50", "run50"),
    ("p99", "run99"),
    ("max", ""),
    ("wait p50", "wait50"),
    ("p99", "wait99"),
)
WORKER_COLUMNS = (
    "worker",
    "pid",
    "state",
    "for",
    "function",
    "task",
    "queued",
    "done",
    "rss",
    "age",
)
RECENT = 5


def of_pool(one: PoolFigures, key: str) -> str:
    """All of it."""
    parts = [
        "\n".join(heading(one)),
        table(
            [title for title, _ in FUNCTION_COLUMNS],
            [function_row(line) for line in in_order(one.functions, key)],
        ),
        table(WORKER_COLUMNS, [worker_row(worker) for worker in one.look.workers]),
        "\n".join([*ends(one.look.story), *recent(one.look.story, RECENT)]),
    ]
    return "\n\n".join(part for part in parts if part)


def heading(one: PoolFigures) -> list[str]:
    ledger = one.look.ledger
    limit = "no limit" if ledger.limit is None else f"limit {ledger.limit:,}"
    up = one.look.uptime
    span = "since its start" if one.since_start else f"in {duration(one.seconds)}"
    lines = [
        f"{printable(one.look.name)}: {printable(ledger.state)}"
        + (f" for {age(up)}" if up is not None else "")
        + f", {ledger.processes} workers wanted, {len(one.look.workers)} there",
        f"{rate(one.rate)} tasks a second {span}; {ledger.in_flight:,} in flight, {limit}; "
        f"{ledger.waiting_callbacks:,} wait for their callbacks",
    ]
    counts = [
        f"{number:,} {what}"
        for number, what in (
            (ledger.submitted, "submitted"),
            (ledger.succeeded, "succeeded"),
            (ledger.failed, "failed"),
            (ledger.lost, "lost"),
            (ledger.cancelled, "cancelled"),
            (ledger.expired, "expired"),
            (ledger.callback_errors, "errors of callbacks"),
            (ledger.backlog, "in the backlog"),
        )
        if number or what in ("submitted", "succeeded", "failed")
    ]
    return [*lines, ", ".join(counts)]


def function_row(line: FunctionFigures) -> list[str]:
    run, wait = line.run, line.wait
    return [
        printable(line.name),
        f"{line.count:,}",
        rate(line.rate),
        f"{line.failed:,}",
        f"{line.share:.0%}",
        duration(run.quantile(0.5)),
        duration(run.quantile(0.99)),
        duration(run.quantile(1.0)),
        duration(wait.quantile(0.5)),
        duration(wait.quantile(0.99)),
    ]


def worker_row(worker: WorkerInfo) -> list[str]:
    return [
        f"{worker.index}",
        f"{worker.pid or '-'}",
        worker.state,
        duration(worker.running_for),
        printable(worker.function or "-"),
        "-" if worker.tid is None else f"{worker.tid}",
        f"{worker.queued:,}",
        f"{worker.done:,}",
        size(worker.rss),
        age(worker.age),
    ]


def ends(story: Mapping[str, Any]) -> list[str]:
    """Of workers, by reason."""
    exits = story.get("exits")
    if not isinstance(exits, dict) or not exits:
        return []
    reasons = sorted(exits.items(), key=lambda item: -item[1])
    return ["ends of workers: " + ", ".join(f"{printable(why)} {n:,}" for why, n in reasons)]


def recent(story: Mapping[str, Any], most: int) -> list[str]:
    """What was lost or went wrong last, the latest first."""
    told = story.get("recent")
    if not isinstance(told, list):
        return []
    now = time.time()
    return [
        f"{age(max(0.0, now - entry['time']))} ago: {printable(entry['text'])}"
        for entry in reversed(told[-most:])
    ]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names to the left, all others to the right; nothing without rows."""
    if not rows:
        return ""
    left = {i for i, title in enumerate(titles) if is_text(title)}
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (titles, *rows)
    )


def is_text(title: str) -> bool:
    """Whether that column holds no numbers."""
    return title in ("function", "state")


def duration(seconds: float | None) -> str:
    """Three digits of it."""
    if seconds is None or math.isnan(seconds):
        return "-"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit:
            number = seconds / unit
            digits = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:,.{digits}f} {name}"
    return f"{seconds * 1e9:.0f} ns"


def age(seconds: float) -> str:
    """Two units of it."""
    whole = int(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (unit, name), (lower, lower_name) in itertools.pairwise(units):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // lower} {lower_name}"
    return f"{whole} s"


def rate(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / (1 << 20):,.0f} MiB"
