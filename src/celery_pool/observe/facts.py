"""What one can know of a running pool."""

from __future__ import annotations

from dataclasses import dataclass

from .histogram import Histogram

#: Functions that are not counted by themselves (the first 63 are), and what travels with its task.
OTHER = "other"


@dataclass(frozen=True)
class Ledger:
    """The pool's counters at one moment; see :class:`celery_pool.reports.Statistics`."""

    state: str
    limit: int | None
    processes: int
    submitted: int
    collected: int
    reaped: int
    succeeded: int
    failed: int
    lost: int
    cancelled: int
    expired: int
    callback_errors: int
    in_flight: int
    waiting_callbacks: int
    backlog: int


@dataclass(frozen=True)
class WorkerInfo:
    """A worker at one moment."""

    pid: int  # 0: its start has not been told yet
    index: int  # its place among the workers, from 0; a replacement has its predecessor's
    #: "starting", "idle", "busy", "spare" (stands by), "leaving", or "corrupt": it has written
    #: what no worker writes, and is being ended
    state: str
    tid: int | None  # of the task that it runs
    function: str | None  # its module and name; OTHER: not known by name
    running_for: float | None  # seconds, since it was begun
    queued: int  # tasks given to it that have not begun
    done: int  # tasks that it has ended
    rss: int | None  # bytes of memory; None: it is gone
    age: float  # seconds, since its start


@dataclass(frozen=True)
class FunctionStatistics:
    """What the ended tasks of one function have taken; a chunk of `Pool.map` is one task.

    A task that was lost with its worker, or is still running, is not among them.
    """

    name: str
    count: int
    failed: int  # of which raised an exception
    run: Histogram  # from the task's start until its worker went on to the next one
    #: from submission to start, of a sample: of each task while at most 32 are in flight, above of
    #: one in 32; not of those with `expires`
    wait: Histogram
