"""Limits of running tasks: time and memory. Who is past one is signalled or killed."""

from __future__ import annotations

import contextlib
import selectors
import signal
import time
from collections import Counter

from .. import _poolcore
from ..errors import MemoryLimitExceeded
from ..host.memory import anonymous_kib
from ..host.signals import catches
from .log import Log
from .notices import Notices
from .policy import Policy
from .roster import Roster
from .worker_process import NEVER, WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .log import Task

#: How often workers' memory is looked at while tasks run, in seconds.
MEMORY_INTERVAL = 0.1


class Enforcement:
    """Of one run of a pool; used by the supervisor's thread alone.

    :param exits: where soft limits are counted.
    """

    def __init__(
        self,
        core: _poolcore.Core,
        policy: Policy,
        roster: Roster,
        exits: Counter[str],
        log: Log,
        notices: Notices,
        selector: selectors.BaseSelector,
    ) -> None:
        self._core = core
        self._policy = policy
        self._roster = roster
        self._exits = exits
        self._log = log
        self._notices = notices
        self._selector = selector
        self._limits_due = NEVER
        self._memory_due = 0.0

    def due(self) -> float:
        """When it has to look again, monotonic seconds."""
        if self._watches_memory() and self._core.in_flight:
            return min(self._limits_due, self._memory_due)
        return self._limits_due

    def look_at_limits(self) -> None:
        seconds = self._core.check_limits()
        now = time.monotonic()
        self._limits_due = NEVER if seconds is None else now + seconds
        sentences = self._core.take_sentences()
        if sentences:
            by_channel = {worker.channel: worker for worker in self._roster}
            for channel, what, task, signum, grace in sentences:
                worker = by_channel.get(channel)
                if worker is not None:
                    self._carry_out(worker, what, task, signum, grace, now)

    def _carry_out(
        self,
        worker: WorkerProcess,
        what: str,
        task: Task,
        signum: int,
        grace: float | None,
        now: float,
    ) -> None:
        if what != "soft_limit_again":
            self._log.limit(what, worker, task, signum)
            told = {
                "soft_limit": self._policy.on_soft_timeout,
                "hard_limit": self._policy.on_timeout,
            }
            self._notices.tell(told.get(what), task[0])
        if what == "soft_limit":
            self._exits[what] += 1
        if what in ("soft_limit", "soft_limit_again"):
            if catches(worker.pid, self._policy.soft_signal):
                worker.send(self._policy.soft_signal)
            else:  # it would end the worker
                self._log.soft_limit_lost(worker)
        elif what == "hard_limit":
            worker.end_with_stack(what, now, self._policy.hard_grace)
            with contextlib.suppress(OSError):  # then nobody tells when the stack is here
                self._selector.register(worker.stack_pipe, selectors.EVENT_READ, worker)
        else:
            worker.end_with(what, signum, now, self._policy.kill_grace if grace is None else grace)
            self.take_steps(worker, now)

    def take_steps(self, worker: WorkerProcess, now: float) -> None:
        """What is due of a worker's end."""
        if worker.take_steps(now):
            worker.read_stack()
            self._core.report_doomed(worker.channel)

    def forget_stack(self, worker: WorkerProcess) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.stack_pipe)

    def _watches_memory(self) -> bool:
        return self._policy.max_memory is not None or self._policy.memory_kill is not None

    def look_at_memory(self) -> None:
        now = time.monotonic()
        if not self._watches_memory() or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_INTERVAL
        for worker in self._roster:
            if worker.dead or not worker.pid or worker.steps:
                continue
            used = anonymous_kib(worker.pid)
            if used is None:
                continue
            limit = self._policy.memory_kill
            if limit is not None and used > limit:
                task = self._core.doom_running(
                    worker.channel,
                    (MemoryLimitExceeded, {"used": used, "limit": limit, "pid": worker.pid}),
                )
                self._log.limit("memory", worker, task)
                worker.end_with("memory", signal.SIGKILL, now, 0)
                self.take_steps(worker, now)
            elif (
                self._policy.max_memory is not None
                and used > self._policy.max_memory
                and worker.why is None
            ):
                worker.why = "memory"
                self._core.retire(worker.channel)
