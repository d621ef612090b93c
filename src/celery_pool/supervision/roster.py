"""Who works for a pool: its template, and its workers from their request to their burial."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import time
from collections.abc import Iterator
from multiprocessing.context import BaseContext

from .. import _poolcore
from ..child.plan import WorkerPlan
from ..host import forkguard
from .policy import Policy, Reason
from .template_process import TemplateProcess
from .worker_process import Stage, WorkerProcess


class Roster:
    """Of one run of a pool. Changed by the supervisor's thread alone (before that has
    started, by the one that starts it); others may read it.

    :param name: of the pool; its processes are named after it.
    :param processes: how many workers to keep.
    """

    def __init__(
        self,
        core: _poolcore.Core,
        plan: WorkerPlan,
        policy: Policy,
        context: BaseContext,
        processes: int,
        name: str,
        selector: selectors.BaseSelector,
    ) -> None:
        self.processes = core.processes = processes
        self.workers: dict[int, WorkerProcess] = {}  # by serial number
        self.template: TemplateProcess | None = None
        self._core = core
        self._plan = plan
        self._policy = policy
        self._context = context
        self._name = name
        self._selector = selector
        self._serials = itertools.count(1)

    def __iter__(self) -> Iterator[WorkerProcess]:
        """A copy: who is looked at may be buried meanwhile."""
        return iter(list(self.workers.values()))

    def pids(self) -> list[int]:
        return [w.pid for w in self if w.pid and not w.dead]

    def hears(self, source: object) -> bool:
        """Whether that is the template's socket."""
        return self.template is not None and source is self.template.sock

    def release_fds(self) -> set[int]:
        """In a forked child: the descriptors to close; the objects let go of them."""
        fds: set[int] = set()
        for worker in self:
            fds |= worker.fds()
        if self.template is not None:
            fds |= self.template.detach()
        return fds

    def start_template(self) -> None:
        made = TemplateProcess(self._context, self._plan, f"{self._name}-template")
        with forkguard.lock:
            made.connect()
            self.template = made
        try:
            made.start()
        except BaseException:
            self.end_template()
            raise
        self._selector.register(made.sock, selectors.EVENT_READ)

    def end_template(self) -> None:
        made, self.template = self.template, None
        if made is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(made.sock)
            made.end()

    def start_worker(self, reason: Reason) -> None:
        """Asks the template for one.

        :param reason: with which tasks end that it has been given, if that fails.
        :raises OSError: no process, descriptor or memory to be had; a
            ConnectionError: the template is dead.
        """
        assert self.template is not None
        serial = next(self._serials)
        with forkguard.lock:
            channel = _poolcore.Channel(self._core.ring_size, self._policy.max_tasks)
            lifeline, ours = os.pipe()
            try:
                stack, stack_end = os.pipe()
            except OSError:
                os.close(lifeline)
                os.close(ours)
                raise
            worker = WorkerProcess(
                serial,
                channel,
                ours,
                stack,
                time.monotonic() + self._policy.start_timeout,
                group=self._plan.process_group,
            )
            self.workers[serial] = worker
        os.set_blocking(stack, False)
        os.set_blocking(stack_end, False)
        self._core.attach(channel)
        try:
            self.template.ask_for_worker(
                serial,
                f"{self._name}-worker-{serial}",
                [*self._core.worker_fds(), *channel.worker_fds(), lifeline, stack_end],
            )
        except BaseException:
            del self.workers[serial]
            self._core.recover(channel, reason)
            worker.close()
            raise
        finally:
            os.close(lifeline)
            os.close(stack_end)

    def confirm(self, serial: int, pid: int, fds: list[int]) -> None:
        """The template has forked it; `fds`: its pidfd, or nothing."""
        worker = self.workers.get(serial)
        if worker is None:
            for fd in fds:
                os.close(fd)
            return
        worker.pid = worker.channel.pid = pid
        worker.enter(Stage.STARTED)
        if fds:
            worker.pidfd = fds[0]
            self._selector.register(worker.pidfd, selectors.EVENT_READ, worker)

    def missing(self) -> int:
        """How many to start: one for each place, and one more for each worker that is
        about to leave. Negative: how many are too many."""
        staying = self.staying()
        leaving_soon = sum(w.channel.needs_successor for w in staying)
        return self.processes + leaving_soon - len(staying)

    def staying(self) -> list[WorkerProcess]:
        """Those that count. A dead one that had done nothing does until it is buried:
        its successor may have to wait."""
        return [
            w
            for w in self.workers.values()
            if w.why is None and not w.channel.leaving and (not w.dead or w.channel.done == 0)
        ]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()
