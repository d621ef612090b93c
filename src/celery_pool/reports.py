"""What a pool says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observe.facts import FunctionStatistics


@dataclass(frozen=True)
class Statistics:
    """A snapshot of :meth:`TaskPool.statistics`; counts since ``run()``.

    What is counted only rises. An outcome is counted when it is known: for callbacks,
    before they run; without them, when the result is collected, as what the task did
    (that it turns out not to unpickle, in ``get()``, changes nothing any more).
    """

    submitted: int
    succeeded: int
    failed: int  # with any exception, lost ones included
    lost: int  # with WorkerLostError
    in_flight: int  # submitted and not collected
    waiting_callbacks: int  # collected, callbacks have not returned
    callback_errors: int  # exceptions raised by callbacks
    cancelled: int  # of the failed: taken back before their start
    expired: int  # of the failed: not started in time
    workers: int  # processes alive
    #: Ends of workers by reason: "recycled" (maxtasksperchild), "memory", "hard_limit",
    #: "terminated" (by AsyncResult.terminate), "shrunk", "renewed", "signal", "exit_code",
    #: "failed_start", "stopped" (with the pool); and "soft_limit", the tasks that
    #: were past their soft limit, which ends no worker.
    exits: Mapping[str, int]
    #: What ended tasks have taken, by function; None unless asked for.
    functions: Mapping[str, FunctionStatistics] | None = None


@dataclass(frozen=True)
class Health:
    """What :meth:`TaskPool.healthy` says; true if all is well."""

    reasons: tuple[str, ...]  # why it is not, a sentence each

    def __bool__(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class DrainReport:
    """What :meth:`TaskPool.drain` leaves; tasks are given by their ``meta``."""

    finished: int  # reaped while draining
    not_started: list[Any]  # will never run
    running: list[Any]  # were killed
