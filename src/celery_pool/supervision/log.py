"""What happens to workers, on the pool's logger: a sentence each, and its facts as attributes
of the record (`event`, `pid`, `exitcode`, `signal`, `tid`, `function`)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque

from .. import _poolcore
from ..errors import describe_exit, report_unraisable, signal_name
from ..wire.remote import described_task, full_name
from .restarts import Row
from .verdicts import UNPLANNED
from .worker_process import WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    Task = tuple[Hashable, Callable[..., Any] | None]  # (tid, target where it is known)

#: Failed starts come in crowds: one in so many seconds is logged.
FAILED_START_INTERVAL = 10.0

#: Warnings and errors that onlookers are shown, and characters of each.
RECENT, LONGEST_TEXT = 50, 500

#: logging's levels; the module itself is imported when something is said.
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40

_LIMITS = {
    "soft_limit": "is past its soft limit in worker {pid}",
    "hard_limit": "is past its time limit: worker {pid} is killed",
    "memory": "is past the memory limit: worker {pid} is killed",
    "terminated": "is ended by hand: worker {pid} gets {signal}",
}


class Log:
    """Of one run of a pool. In the supervisor's thread, so a handler that waits delays it;
    one that raises does not harm."""

    def __init__(self, core: _poolcore.Core) -> None:
        self._core = core
        self._failed_start_due = 0.0
        #: Warnings and errors, for onlookers; and how many there have been.
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self.said = 0

    def buried(
        self, worker: WorkerProcess, key: str, task: Task | None, out_of_memory: bool
    ) -> None:
        """`key`: under which its exit is counted."""
        if key in UNPLANNED:
            if key != "failed_start":
                self._died(worker, task, out_of_memory)
        else:
            text = f"worker {{pid}} has ended: {key}"
            self.say(DEBUG, "ended", text, worker)

    def _died(self, worker: WorkerProcess, task: Task | None, out_of_memory: bool) -> None:
        how = describe_exit(worker.exitcode) + ", probably out of memory" * out_of_memory
        if task is not None:
            how += f", while it ran {described_task(*task)}"
        self.say(WARNING, "died", "worker {pid} died: " + how, worker, task)

    def start_failed(self, worker: WorkerProcess | None, cause: BaseException, row: Row) -> None:
        """And is tried again; `row`: of the outage, if it is one."""
        if self._is_time_for_a_failed_start():
            text = f"the start of a worker has failed{_lasts(row)}: it is tried again, tasks wait"
            self.say(ERROR, "start_failed", text, worker, cause=cause)

    def renewal_failed(self, cause: BaseException, again: bool, row: Row) -> None:
        if self._is_time_for_a_failed_start() or not again:
            what = "it is tried again" if again else "it is not tried again"
            text = f"a renewal's template has failed{_lasts(row)}: {what}, workers stay as they are"
            self.say(ERROR, "renewal_failed", text, cause=cause)

    def _is_time_for_a_failed_start(self) -> bool:
        now = time.monotonic()
        if now < self._failed_start_due:
            return False
        self._failed_start_due = now + FAILED_START_INTERVAL
        return True

    def replaced(self, worker: WorkerProcess) -> None:
        self.say(INFO, "restarted", "worker {pid} has taken a dead one's place", worker)

    def outage_over(self, worker: WorkerProcess, row: Row) -> None:
        lasted = time.monotonic() - row.since
        text = f"workers can be started again: {row.length} starts failed within {lasted:.1f} s"
        self.say(WARNING, "outage_over", text, worker)

    def limit(self, event: str, worker: WorkerProcess, task: Task | None, signum: int = 0) -> None:
        """A limit that hit a task, or somebody who ended it."""
        what = "a task" if task is None else described_task(*task)
        level = INFO if event == "terminated" else WARNING  # the program's own act
        self.say(level, event, f"{what} {_LIMITS[event]}", worker, task, signum=signum)

    def soft_limit_lost(self, worker: WorkerProcess) -> None:
        text = "the task in worker {pid} has taken the soft limit's signal away: it is not raised"
        self.say(WARNING, "soft_limit_lost", text, worker)

    def garbage(self, worker: WorkerProcess) -> None:
        text = "worker {pid} has written what no worker writes: it is killed"
        self.say(ERROR, "garbage", text, worker)

    def stuck(self, worker: WorkerProcess) -> None:
        self.say(ERROR, "stuck", "worker {pid} does not leave: it is killed", worker)

    def template_is_silent(self) -> None:
        text = "the template process does not answer: it is replaced"
        self.say(ERROR, "template", text)

    def template_failed(self, cause: BaseException) -> None:
        self.say(ERROR, "template", "the template has failed: it is replaced", cause=cause)

    def turn_failed(self, error: BaseException) -> None:
        self.say(ERROR, "turn_failed", "the supervisor has failed: it tries again", cause=error)

    def broken(self, what: str, cause: BaseException) -> None:
        self.say(ERROR, "broken", f"the pool is broken: {what}", cause=cause)

    def not_told(self, function: Callable[..., object], error: BaseException) -> None:
        self.say(ERROR, "callback", f"callback {function!r} raised", cause=error)

    def _is_heard(self, level: int) -> bool:
        """Who wants less than warnings has imported logging to say so."""
        if level < WARNING and "logging" not in sys.modules:
            return False
        return self._core.logger.isEnabledFor(level)

    def say(
        self,
        level: int,
        event: str,
        text: str,
        worker: WorkerProcess | None = None,
        task: Task | None = None,
        *,
        cause: BaseException | None = None,
        signum: int = 0,
    ) -> None:
        """`text` may name facts, `{pid}` say; other braces in it do no harm."""
        try:
            heard = self._is_heard(level)
            if not heard and level < WARNING:
                return
            exitcode = None if worker is None else worker.exitcode
            signum = signum or max(0, -(exitcode or 0))
            facts = {
                "event": event,
                "pid": worker.pid if worker is not None else None,
                "exitcode": exitcode,
                "signal": signal_name(signum) if signum else None,
                "tid": task[0] if task is not None else None,
                "function": None if task is None or task[1] is None else full_name(task[1]),
            }
            for name in ("pid", "signal"):
                text = text.replace(f"{{{name}}}", str(facts[name]))
            if level >= WARNING:
                self.recent.append({"time": time.time(), "text": text[:LONGEST_TEXT], **facts})
                self.said += 1
            if not heard:
                return
            exc_info = None if cause is None else (type(cause), cause, cause.__traceback__)
            self._core.logger.log(level, text, exc_info=exc_info, extra=facts)
        except BaseException:
            with contextlib.suppress(BaseException):
                report_unraisable("the logger raised an exception")


def _lasts(row: Row) -> str:
    if row.length < 2:
        return ""
    return f" ({row.length} in a row, for {time.monotonic() - row.since:.0f} s)"
