"""Who works for a pool: its template, and its workers from their request to their burial."""

from __future__ import annotations

import errno
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
from .worker_process import NEVER, Stage, WorkerProcess

#: Descriptors of this process that a worker takes: its segment, its doorbell, its lifeline, the
#: pipe for its stack, its pidfd. Two more while it is started.
FDS_OF_A_WORKER = 5

#: How often it is looked whether a worker is ready, in seconds: who would see that at once may be
#: in a callback.
START_INTERVAL = 0.1


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
        self.template: TemplateProcess | None = None  # is asked for workers
        self._retired: list[TemplateProcess] = []  # have workers, and are asked no more
        self._made: list[TemplateProcess] = []  # will be asked
        self._over = False  # no more templates
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
        """Of those that serve (they take tasks, or may still run one), and of the next ones
        where a seat is free."""
        known = [w for w in self if w.pid and not w.dead]
        pids = [w.pid for w in known if w.channel.serving]
        next_ones = [w.pid for w in known if w.stays() and not w.channel.serving]
        return pids + next_ones[: max(0, self.processes - len(pids))]

    def ready(self) -> int:
        """Workers that take tasks."""
        return sum(worker.channel.open and not worker.dead for worker in self)

    def alive(self) -> int:
        """Processes, also those that stand by or end."""
        return sum(worker.pid > 0 and not worker.dead for worker in self)

    def template_at(self, source: object) -> TemplateProcess | None:
        """Whose socket that is."""
        for made in (self.template, *self._retired, *self._made):
            if made is not None and made.sock is source:
                return made
        return None

    def release_fds(self) -> set[int]:
        """In a forked child: the descriptors to close; the objects let go of them."""
        fds: set[int] = set()
        for worker in self:
            fds |= worker.fds()
        for made in (self.template, *self._retired, *self._made):
            if made is not None:
                fds |= made.detach()
        return fds

    def start_template(self) -> None:
        """The one that is asked from now on."""
        made = self.make_template()
        self.listen(made)
        self.adopt(made)

    def make_template(self, renews: bool = False) -> TemplateProcess:
        """Starts one; adopt() makes it the one that is asked. In any thread.

        :param renews: it is told of in renewing() until then, and workers of those before
            are outdated from then on.
        """
        made = TemplateProcess(self._context, self._plan, self._name, renews)
        with forkguard.lock:
            made.connect()
            self._made.append(made)
        try:
            made.start()
        except BaseException:
            self._made.remove(made)
            made.end()
            raise
        if self._over:
            made.end()
        return made

    def renewing(self) -> list[TemplateProcess]:
        """Those that shall take the place of others, and have not yet been initialized; the
        last one is the latest."""
        return [made for made in self._made if made.renews and made.started]

    def listen(self, made: TemplateProcess) -> None:
        """Has the selector tell of what it says; OSError."""
        if not made.heard:
            self._selector.register(made.sock, selectors.EVENT_READ)
            made.heard = True

    def adopt(self, made: TemplateProcess) -> None:
        """It takes the place of the one before, which ends with its last worker."""
        if self.template is not None:
            self.template.dismiss()
            self._retired.append(self.template)
        self._made.remove(made)
        self.template = made
        if made.renews:
            for worker in self:
                worker.outdated = True

    def end_template(self, made: TemplateProcess | None) -> None:
        """That, which has died or has nothing more to do; its workers live on."""
        if made is None:
            return
        if made is self.template:
            self.template = None
        elif made in self._retired:
            self._retired.remove(made)
        else:
            self._made.remove(made)
        if made.heard:
            self._selector.unregister(made.sock)
        made.end()

    def end_templates(self) -> None:
        """Those there are, and those that other threads make just now."""
        self._over = True
        for made in [self.template, *self._retired, *self._made]:
            self.end_template(made)

    def all_gone(self) -> bool:
        """Once no more workers are asked for. The template ends with the last one: told so
        then, and not while all of them want to end first."""
        if self.template is not None and len(self.workers) < 2:
            self.template.dismiss()
        return not self.workers

    def start_worker(self, reason: Reason) -> None:
        """Asks the template for one.

        :param reason: with which tasks end that it has been given, if that fails.
        :raises OSError: no descriptor or memory to be had; a ConnectionError: the
            template is dead.
        """
        assert self.template is not None
        worker, theirs = self._new_worker()
        try:
            self._core.attach(worker.channel)
            self.template.ask_for_worker(
                worker.serial,
                worker.channel.index,
                [*self._core.worker_fds(), *worker.channel.worker_fds(), *theirs],
            )
        except BaseException:
            del self.workers[worker.serial]
            self._core.recover(worker.channel, reason)
            worker.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    def _new_worker(self) -> tuple[WorkerProcess, list[int]]:
        """One that the roster knows; its ends of the pipes, which the caller closes."""
        fds: list[int] = []
        try:
            with forkguard.lock:
                channel = _poolcore.Channel(
                    self._core.ring_size, self._policy.max_tasks, self._free_index()
                )
                lifeline, ours = os.pipe()
                fds += lifeline, ours
                stack, stack_end = os.pipe()
                fds += stack, stack_end
                os.set_blocking(stack, False)
                os.set_blocking(stack_end, False)
                now = time.monotonic()
                worker = WorkerProcess(
                    next(self._serials),
                    channel,
                    ours,
                    stack,
                    now,
                    now + self._policy.start_timeout,
                    template=self.template,
                    group=self._plan.process_group,
                )
                self.workers[worker.serial] = worker
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                raise too_few_descriptors() from None
            raise
        return worker, [lifeline, stack_end]

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

    def watch(self) -> None:
        """Has the selector tell of the end of those of which it does not yet; after an
        OSError that is still to be done."""
        for worker in self:
            if worker.pidfd >= 0 and not worker.watched and not worker.dead:
                self._selector.register(worker.pidfd, selectors.EVENT_READ, worker)
                worker.watched = True

    def starting(self) -> int:
        """Workers of which it is not known yet whether their start succeeds."""
        return sum(not worker.ready for worker in self)

    def due(self) -> float:
        """When somebody has to look at a worker, monotonic seconds."""
        due = [worker.due() for worker in self]
        if self.starting():
            due.append(time.monotonic() + START_INTERVAL)
        return min(due, default=NEVER)

    def heed(self, worker: WorkerProcess) -> None:
        """Lets it go if it has asked for that."""
        if worker.channel.wants_to_leave and not worker.channel.leaving:
            self._core.retire(worker.channel)

    def spares(self) -> int:
        """How many workers may stand by besides those that serve."""
        return max(1, self.processes // 4)

    def missing(self) -> int:
        """How many to start: one for each seat, and a spare for each worker that is
        about to leave or outdated, as far as spares are allowed.

        One that leaves keeps its seat until its last result, and so counts among those
        allowed. One that has only to end does not; but none is started while more of
        those are left than serve, or a slow finalizer would multiply workers."""
        staying = about_to_leave = finishing = ending = 0
        indexes = set()
        for worker in self:
            if worker.stays():
                staying += 1
                indexes.add(worker.channel.index)
                about_to_leave += worker.channel.needs_successor or worker.outdated
            elif not worker.dead:
                finishing += worker.channel.load > 0
                ending += worker.channel.load == 0
        if ending > self.processes:
            return 0
        seats = self.processes - len(indexes)
        spares = max(0, min(about_to_leave, self.spares()) - (staying - len(indexes)))
        allowed = self.processes + self.spares() - finishing - staying
        return max(0, min(seats + spares, allowed))

    def _free_index(self) -> int:
        """For the next worker: the lowest that nobody has, or that of the worker which has
        been here the longest of those that are about to leave, or that of the outdated one
        which has the least to do."""
        kept = set()
        leaving: dict[int, tuple[int, int]] = {}  # of the last one
        for worker in self:
            index = worker.channel.index
            next_one = worker.channel.needs_successor or worker.outdated
            if worker.stays() and not worker.dead and not next_one:
                kept.add(index)
            elif worker.channel.serving:
                load = 1 + worker.channel.load if worker.outdated else 0
                leaving[index] = load, worker.serial
        free = set(range(self.processes)) - kept or set(range(len(kept) + 1)) - kept
        return min(free, key=lambda index: (leaving.get(index, (0, 0)), index))

    def too_many(self) -> list[WorkerProcess]:
        """Those to let go: not ready first, then idle, then the least busy; of equals the
        last places. A spare that nobody needs any more stays where the next one will be needed."""
        staying = [worker for worker in self if worker.stays() and not worker.dead]
        staying.sort(key=lambda w: (w.ready, w.channel.load, -w.channel.index))
        outdated = any(worker.outdated for worker in staying)
        spares = self.spares() if self._policy.recycles or outdated else 0
        leaving = staying[: max(0, len(staying) - self.processes - spares)]
        seated = [w for w in staying if w.channel.open and w not in leaving]
        return leaving + seated[: max(0, len(seated) - self.processes)]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def too_few_descriptors() -> OSError:
    from resource import RLIMIT_NOFILE, getrlimit

    return OSError(
        errno.EMFILE,
        f"{os.strerror(errno.EMFILE)}: each worker takes {FDS_OF_A_WORKER} descriptors of this "
        f"process, which may have {getrlimit(RLIMIT_NOFILE)[0]} (RLIMIT_NOFILE)",
    )
