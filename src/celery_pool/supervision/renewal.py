"""A rolling restart: workers of a fresh template take the place of those there are.

The template comes first: until it has been initialized everything stays as it is, and if it fails
another one is tried. Then a worker of its stands by, and one of those there are leaves, and so on.
"""

from __future__ import annotations

import time

from .. import _poolcore
from ..errors import StartError
from ..wire.remote import load_error
from .log import Log
from .policy import Policy
from .restarts import Row, outage_delay
from .roster import Roster
from .template_process import TemplateProcess
from .verdicts import template_died
from .worker_process import NEVER, WorkerProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Renewal:
    """Of one run of a pool; used by the supervisor's thread alone."""

    def __init__(self, core: _poolcore.Core, policy: Policy, roster: Roster, log: Log) -> None:
        self._core = core
        self._policy = policy
        self._roster = roster
        self._log = log
        self.failures = Row()  # of templates, since one has been initialized
        self._again = NEVER  # when another template is tried, monotonic seconds

    def due(self) -> float:
        """When it has to look again, monotonic seconds."""
        renewing = self._roster.renewing()
        return min([self._again, *(self._start_by(made) for made in renewing)])

    def _start_by(self, made: TemplateProcess) -> float:
        return made.started + self._policy.start_timeout

    def go_on(self) -> bool:
        """Looks at templates that are being initialized, and lets go of workers. Whether it has
        let go of any."""
        self._look_at_templates()
        leaving = self._to_let_go()
        for worker in leaving:
            worker.why = "renewed"
            self._core.retire(worker.channel)
        return bool(leaving)

    def concerns(self, made: TemplateProcess) -> bool:
        """Whether it is a template that workers may be asked of only when it is initialized."""
        return made in self._roster.renewing()

    def hear(self, made: TemplateProcess, message: tuple[Any, ...] | None) -> None:
        """What such a one says; None: it is dead."""
        if message is None:
            self._failed(made, template_died())
        elif message[0] == "broken":
            self._failed(made, load_error(message[2]))
        else:
            self.failures = Row()
            self._roster.adopt(made)

    def _failed(self, made: TemplateProcess | None, cause: BaseException) -> None:
        """It could not be initialized, or not even started; another one is tried."""
        if made is not None:
            self._roster.end_template(made)
        now = time.monotonic()
        self.failures.another(now, now)
        retries = self._policy.start_retries
        again = retries is None or self.failures.length <= retries
        self._again = now + outage_delay(self.failures, now) if again else NEVER
        self._log.renewal_failed(cause, again, self.failures)

    def _look_at_templates(self) -> None:
        now = time.monotonic()
        renewing = self._roster.renewing()
        for made in renewing[:-1]:  # it has been asked for again
            self._roster.end_template(made)
        for made in renewing[-1:]:
            self._again = NEVER
            self._roster.listen(made)
            if now >= self._start_by(made):
                self._failed(made, StartError("the template was not initialized in start_timeout"))
        if now >= self._again:
            self._again = NEVER
            try:
                self._roster.make_template(renews=True)
            except OSError as error:
                self._failed(None, error)
            else:
                self._look_at_templates()

    def _to_let_go(self) -> list[WorkerProcess]:
        roster = self._roster
        alive = [worker for worker in roster if not worker.dead]
        old = [worker for worker in alive if worker.outdated and worker.stays()]
        new = [worker for worker in alive if not worker.outdated and worker.stays()]
        succeeded = {w.channel.index for w in new if w.ready and not w.channel.serving}
        leaving = [w for w in old if not w.channel.serving or w.channel.index in succeeded]
        if old and not leaving and all(worker.ready for worker in new) and not roster.missing():
            # there is no room for one that stands by while others end what they run
            ends = any(not worker.stays() and worker.channel.load for worker in alive)
            leaving = [min(old, key=lambda worker: worker.channel.load)] if ends else []
        return leaving
