"""The supervisor: starts, watches, limits and replaces the workers of one run of a pool.

Cold path: it runs once a worker's life and once a time limit, on a thread of its
own, so that a slow callback never delays it. It sleeps until something happens or
a deadline comes.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import select
import selectors
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

from .. import _poolcore
from ..child.plan import ATTACH_FAILED, WorkerPlan
from ..errors import (
    AttachError,
    CrashLoopError,
    MemoryLimitExceeded,
    PoolTerminated,
    StartError,
    WorkerLostError,
    describe_exit,
)
from ..host import forkguard
from ..host.memory import OutOfMemoryKills, anonymous_kib
from ..wire import remote
from .restarts import RestartBudget
from .template_process import TemplateProcess
from .worker_process import NEVER, WorkerProcess

#: How long a dead worker's exit code is waited for, in seconds.
EXIT_CODE_WAIT = 0.5
#: The supervisor looks at everything this often at least, in seconds.
LONGEST_SLEEP = 3600.0
#: How often workers' memory is looked at while tasks run, in seconds.
MEMORY_INTERVAL = 0.1
#: How long callbacks may still run after the end of the workers, in seconds.
REAPER_GRACE = 5.0

Reason = tuple[type[BaseException], tuple[Any, ...]]


class Phase(enum.Enum):
    RUNNING = enum.auto()
    STOPPING = enum.auto()  # workers leave after what they have
    KILLING = enum.auto()  # workers are killed, what is in flight fails
    ENDED = enum.auto()


@dataclass(frozen=True)
class Policy:
    """How workers are kept; seconds and KiB."""

    start_timeout: float
    max_tasks: int | None
    max_memory: int | None
    memory_kill: int | None
    kill_grace: float
    leave_timeout: float
    max_restarts: int
    restart_window: float
    lost_breaks_pool: bool  # the first worker that dies unasked ends it all


class Supervisor:
    """Workers of one run of a pool.

    :param core: the pool's compiled core; its channels are made here.
    :param processes: how many workers to keep.
    """

    _names = itertools.count(1)

    def __init__(
        self,
        core: _poolcore.Core,
        plan: WorkerPlan,
        policy: Policy,
        context: BaseContext,
        processes: int,
    ) -> None:
        self.core = core
        self.plan = plan
        self.policy = policy
        self.context = context
        self.processes = core.processes = processes
        self.name = f"TaskPool-{next(self._names)}"
        self.workers: dict[int, WorkerProcess] = {}
        self.exits: Counter[str] = Counter()
        self.phase = Phase.RUNNING
        self.reason: Reason = (PoolTerminated, ("the pool was terminated",))
        self.start_error: BaseException | None = None
        self.started = threading.Event()  # all workers ready once, or start_error set
        self._attended = True  # somebody waits for `started`
        self._waited = False
        self.at_exit = False  # ended because the interpreter does
        self._pid = os.getpid()
        self._serials = itertools.count(1)
        self._budget = RestartBudget(policy.max_restarts, policy.restart_window)
        self._oom = OutOfMemoryKills()
        self._next_memory_look = 0.0
        self._limits_due = NEVER
        self._prune_due = NEVER
        self._selector = selectors.DefaultSelector()
        self._template: TemplateProcess | None = None
        with forkguard.lock:
            self._bell, self._ring = os.pipe()
            self._end_seen, self._end = os.pipe()  # the latter is closed at the end
            forkguard.guard(self)
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._supervisor = threading.Thread(
            target=self._run, name=f"{self.name}-supervisor", daemon=True
        )
        self._reaper = threading.Thread(
            target=core.reaper_loop, name=f"{self.name}-reaper", daemon=True
        )

    def owned_fds(self) -> set[int]:
        """For forkguard."""
        fds = {self._bell, self._ring, self._end_seen, self._end}
        if self.phase is not Phase.ENDED:
            fds.add(self._selector.fileno())
        for worker in list(self.workers.values()):
            fds |= worker.fds()
        if self._template is not None:
            fds |= self._template.detach()
        return fds

    def __del__(self) -> None:
        if self.in_own_process():
            os.close(self._end_seen)
            os.close(self._ring)  # others may write to it until now

    # ---- called by the facade ----

    def begin(self, attended: bool) -> None:
        """Starts everything, without waiting.

        :param attended: :meth:`await_ready` follows; else a start that fails breaks
            the pool.
        """
        self._attended = attended
        try:
            # from the caller's thread and before our own: a fork here is as safe
            # as the embedding program lets it be
            self._start_template()
            for _ in range(self.processes):
                self._start_worker()
            self.core.supervisor_bell = self._ring
            self._supervisor.start()
        except BaseException:
            self.core.supervisor_bell = -1
            self._end_template()
            self._close()
            raise
        try:
            self._reaper.start()
        except BaseException:
            self.kill()
            self.join(None)
            raise

    def await_ready(self) -> None:
        """Returns when all workers are ready.

        :raises StartError: not within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised.
        """
        try:
            if not self.started.wait(self.policy.start_timeout):
                self._fail_start(self._too_slow())
            if self.start_error is not None:
                raise self.start_error
        except BaseException:
            self.kill()
            self.join(None)
            raise

    def stop(self) -> None:
        """Lets the workers leave once they have done what they were given."""
        if self.phase is Phase.RUNNING:
            self.phase = Phase.STOPPING
        self.wake()

    def kill(self) -> None:
        """Kills the workers; everything in flight ends with ``reason``. Takes no
        lock: also from a signal handler."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.KILLING
        for worker in list(self.workers.values()):
            worker.send(signal.SIGKILL)
        self.wake()

    def join(self, timeout: float | None) -> bool:
        """Waits until the workers are gone and everything in flight has its end;
        not from the supervisor's thread. Takes no lock."""
        if threading.current_thread() is not self._supervisor:
            poll = select.poll()
            poll.register(self._end_seen, select.POLLIN)
            end = NEVER if timeout is None else time.monotonic() + timeout
            while not poll.poll(1000 * min(LONGEST_SLEEP, max(0.0, end - time.monotonic()))):
                if time.monotonic() >= end:
                    break
        return self.phase is Phase.ENDED

    def join_threads(self) -> None:
        """After join(): waits, not for ever and only once, until the last callbacks
        have run."""
        if not self.is_own_thread() and self._supervisor.ident is not None and not self._waited:
            self._waited = True
            self._supervisor.join(REAPER_GRACE)
            if self._reaper.ident is not None:
                self._reaper.join(REAPER_GRACE)

    @property
    def has_ended(self) -> bool:
        return self.phase is Phase.ENDED

    def is_own_thread(self) -> bool:
        return threading.current_thread() in (self._supervisor, self._reaper)

    def in_own_process(self) -> bool:
        return os.getpid() == self._pid

    def wake(self) -> None:
        """Makes the supervisor look; from anywhere, also from a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._ring, b"w")

    def pids(self) -> list[int]:
        return [w.pid for w in list(self.workers.values()) if w.pid and not w.dead]

    def resize(self, processes: int) -> None:
        """Keeps so many workers from now on."""
        self.processes = self.core.processes = processes
        self.wake()

    # ---- the template ----

    def _start_template(self) -> None:
        made = TemplateProcess(self.context, self.plan, f"{self.name}-template")
        with forkguard.lock:
            made.connect()
            self._template = made
        try:
            made.start()
        except BaseException:
            self._end_template()
            raise
        self._selector.register(made.sock, selectors.EVENT_READ)

    def _end_template(self) -> None:
        made, self._template = self._template, None
        if made is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(made.sock)
            made.end()

    def _template_died(self) -> None:
        """Somebody killed it. Its workers live on; their exit codes are lost."""
        self._end_template()
        if not self.started.is_set():
            self._fail_start(StartError("the template process died before the workers were ready"))
        for worker in list(self.workers.values()):
            worker.orphan = True
            if worker.dead:
                self._bury(worker)
            elif not worker.pid:
                self._give_up_start(worker)

    def _give_up_start(self, worker: WorkerProcess) -> None:
        """Its start was never confirmed; the closed lifeline ends it if it exists.
        It was given no task."""
        worker.kill()
        self._bury(worker)

    # ---- workers ----

    def _start_worker(self) -> None:
        assert self._template is not None
        serial = next(self._serials)
        with forkguard.lock:
            channel = _poolcore.Channel(self.core.ring_size, self.policy.max_tasks)
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
                time.monotonic() + self.policy.start_timeout,
                group=self.plan.process_group,
            )
            self.workers[serial] = worker
        os.set_blocking(stack, False)
        os.set_blocking(stack_end, False)
        self.core.attach(channel)
        try:
            self._template.ask_for_worker(
                serial,
                f"{self.name}-worker-{serial}",
                [*self.core.worker_fds(), *channel.worker_fds(), lifeline, stack_end],
            )
        except BaseException:
            del self.workers[serial]
            self.core.recover(channel, self.reason)
            worker.close()
            raise
        finally:
            os.close(lifeline)
            os.close(stack_end)

    def _too_slow(self) -> StartError:
        return StartError(
            f"workers not ready within start_timeout={self.policy.start_timeout} seconds"
        )

    def _fail_start(self, error: BaseException) -> None:
        if not self.started.is_set():
            self.start_error = error
            self.started.set()
            if not self._attended:
                self._break(StartError, "the workers could not be started", error)

    def _worker_started(self, serial: int, pid: int, fds: list[int]) -> None:
        worker = self.workers.get(serial)
        if worker is None:
            for fd in fds:
                os.close(fd)
            return
        worker.pid = worker.channel.pid = pid
        if fds:
            worker.pidfd = fds[0]
            self._selector.register(worker.pidfd, selectors.EVENT_READ, worker)

    def _worker_died(self, worker: WorkerProcess) -> None:
        """Dead for certain. The exit code comes from the template."""
        worker.dead = True
        if worker.pidfd >= 0:
            self._selector.unregister(worker.pidfd)
        worker.bury_at = time.monotonic() + EXIT_CODE_WAIT
        if worker.group:
            worker.kill_group()
        if worker.exitcode is not None or worker.orphan:
            self._bury(worker)

    def _bury(self, worker: WorkerProcess) -> None:
        """Recovers the tasks of a dead worker and counts why it is dead."""
        del self.workers[worker.serial]
        worker.read_stack()
        self._forget_stack(worker)
        killing = self.phase is Phase.KILLING
        self.exits[self._exit_key(worker)] += 1
        lost_to_memory = worker.exitcode == -signal.SIGKILL and self._oom.increased()
        self.core.recover(
            worker.channel,
            self.reason
            if killing
            else (WorkerLostError, (worker.pid, worker.exitcode, lost_to_memory)),
            not killing,
        )
        worker.close()
        if worker.why is None and not worker.channel.leaving and not killing:
            self._died_unplanned(worker)

    def _exit_key(self, worker: WorkerProcess) -> str:
        if self.phase is Phase.KILLING:
            return "stopped"
        if worker.why is not None:
            return worker.why
        if worker.channel.leaving and not worker.exitcode:
            return "recycled" if self.phase is Phase.RUNNING else "stopped"
        if not worker.ready:
            return "failed_start"
        return "signal" if (worker.exitcode or 0) < 0 else "exit_code"

    def _died_unplanned(self, worker: WorkerProcess) -> None:
        if worker.channel.start_error is not None:
            cause = remote.load_error(worker.channel.start_error)
        elif worker.exitcode == ATTACH_FAILED and not worker.ready:
            cause = AttachError(
                "a worker runs another build of celery_pool than its parent: "
                "was the package upgraded under a running program?"
            )
        elif not worker.ready:
            cause = StartError(
                f"a worker died before it was ready: {describe_exit(worker.exitcode)}"
            )
        else:
            cause = WorkerLostError(worker.pid, worker.exitcode)
        if not worker.ready:
            self._fail_start(cause)
        if self.policy.lost_breaks_pool:
            self._break(CrashLoopError, "a worker died", cause)
        elif self._budget.died(time.monotonic(), healthy=worker.channel.done > 0):
            self._break_past_budget(cause)

    def _break_past_budget(self, cause: BaseException) -> None:
        self._break(
            CrashLoopError,
            f"more than {self.policy.max_restarts} workers died within "
            f"{self.policy.restart_window} seconds without finishing a task, the last one",
            cause,
        )

    def _break(
        self, kind: type[CrashLoopError | StartError], what: str, cause: BaseException
    ) -> None:
        """Nothing goes on before the next run()."""
        if self.core.state == _poolcore.PoolState.BROKEN:
            return
        self.core.logger.error("the pool is broken: %s", what, exc_info=cause)
        self.reason = (kind, (f"{what}: {type(cause).__name__}: {cause}", cause))
        self.core.break_pool(self.reason)
        self.kill()

    def _replenish(self) -> None:
        """Starts what is missing: one for each place, and one more for each worker
        that is about to leave."""
        if self.phase is not Phase.RUNNING or not self.started.is_set() or self.start_error:
            return
        while self._missing() > 0 and time.monotonic() >= self._budget.next_start:
            try:
                if self._template is None:
                    self._start_template()
                self._start_worker()
            except ConnectionError:  # the template has just died: a new one, at once
                self._template_died()
            except OSError as error:  # no process, descriptor or memory to be had now
                self.core.logger.warning("a worker could not be started: %s", error)
                if self._budget.died(time.monotonic(), healthy=False):
                    self._break_past_budget(error)

    def _missing(self) -> int:
        staying = self._staying()
        leaving_soon = sum(w.channel.needs_successor for w in staying)
        return self.processes + leaving_soon - len(staying)

    def _staying(self) -> list[WorkerProcess]:
        """Those that count. A dead one that had done nothing does until it is buried:
        its successor may have to wait."""
        return [
            w
            for w in self.workers.values()
            if w.why is None and not w.channel.leaving and (not w.dead or w.channel.done == 0)
        ]

    def _shrink(self) -> None:
        """Lets go of those too many: not ready first, then idle, then the least busy."""
        excess = -self._missing()
        if excess <= 0 or self.phase is not Phase.RUNNING:
            return
        staying = sorted(self._staying(), key=lambda w: (w.ready, w.channel.load))
        for worker in staying[:excess]:
            worker.why = "shrunk"
            self.core.retire(worker.channel)
            self.wake()  # from now on it has leave_timeout

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # a defect of ours: nobody may wait for ever
            self.core.logger.critical("the supervisor has failed", exc_info=error)
            self.reason = (CrashLoopError, ("the supervisor has failed", error))
            self.core.break_pool(self.reason)
            self._fail_start(error)
            self._abandon()
        finally:
            self._finish()

    def _watch(self) -> None:
        while not self._finished():
            for key, _ in self._selector.select(self._sleep()):
                if key.fd == self._bell:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                elif self._template is not None and key.fileobj is self._template.sock:
                    self._hear_template()
                elif key.fd == key.data.pidfd:
                    self._worker_died(key.data)
                else:
                    self._forget_stack(key.data)
                    key.data.stack_arrives(time.monotonic())
            self._look_at_workers()
            self._look_at_limits()
            self._look_at_memory()
            self._prune()
            self._replenish()
            self._shrink()

    def _abandon(self) -> None:
        """Kills the workers and recovers what they had, with no other help."""
        self.phase = Phase.KILLING
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
            self.core.recover(worker.channel, self.reason, False)

    def _finished(self) -> bool:
        return self.phase in (Phase.STOPPING, Phase.KILLING) and not self.workers

    def _sleep(self) -> float | None:
        """Seconds to the next deadline; None: there is none."""
        due = [self._limits_due, self._prune_due]
        for worker in self.workers.values():
            if worker.dead:
                due.append(worker.bury_at)
            elif worker.steps:
                due.append(worker.steps[0][0])
            elif worker.lifeline >= 0:
                due.append(worker.leave_by if worker.ready else worker.start_by)
        if self.phase is Phase.RUNNING and self._missing() > 0:
            due.append(self._budget.next_start)
        if self._watches_memory() and self.core.in_flight:
            due.append(self._next_memory_look)
        soonest = min(due)
        return (
            None if soonest == NEVER else min(LONGEST_SLEEP, max(0.0, soonest - time.monotonic()))
        )

    def _hear_template(self) -> None:
        assert self._template is not None
        message, fds = self._template.hear()
        if message is None:
            self._template_died()
            return
        what, serial, detail = message
        if what == "started":
            self._worker_started(serial, detail, fds)
            return
        worker = self.workers.get(serial)
        if worker is None:
            return
        if what == "exited":
            worker.exitcode = detail
            if worker.dead:
                self._bury(worker)
            elif worker.pidfd < 0:
                self._worker_died(worker)
        elif what == "failed":
            self.core.logger.warning("a worker could not be forked: %s", detail)
            self._fail_start(StartError(f"a worker could not be forked: {detail}"))
            worker.dead = True
            self._bury(worker)

    def _look_at_workers(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers.values()):
            channel = worker.channel
            if worker.dead:
                if now >= worker.bury_at:
                    self._bury(worker)
                continue
            worker.take_steps(now)
            if not worker.pid and (self.phase is Phase.KILLING or now >= worker.start_by):
                if self.phase is not Phase.KILLING:
                    # the template does not answer: the next one may
                    self.core.logger.error("the template process does not answer: it is replaced")
                    self._template_died()
                    return
                self._give_up_start(worker)
                continue
            if self.phase is Phase.STOPPING and not channel.leaving:
                self.core.stop_worker(channel)
            if channel.corrupt or self.phase is Phase.KILLING:
                worker.kill()
            elif worker.pid and channel.greeted and not worker.ready:
                worker.ready = True
                self.core.ready(channel)
            elif not worker.ready and now >= worker.start_by:
                self._fail_start(self._too_slow())
                worker.kill()
            elif channel.leaving and channel.load == 0:
                if worker.leave_by == NEVER:
                    worker.leave_by = now + self.policy.leave_timeout
                elif now >= worker.leave_by:
                    self.core.logger.error("worker %s does not leave: it is killed", worker.pid)
                    worker.kill()
        if not self.started.is_set() and all(w.ready for w in self.workers.values()):
            self.started.set()

    def _look_at_limits(self) -> None:
        due, seconds = self.core.check_limits()
        now = time.monotonic()
        self._limits_due = NEVER if seconds is None else now + seconds
        if due or self.core.condemned:
            by_channel = {worker.channel: worker for worker in self.workers.values()}
            for what, channel in due:
                self._enforce(what, by_channel.get(channel), now)
            for channel, signum in self.core.take_condemned():
                worker = by_channel.get(channel)
                if worker is not None:
                    worker.end_with("terminated", signum, now, self.policy.kill_grace)
                    worker.take_steps(now)

    def _enforce(self, what: str, worker: WorkerProcess | None, now: float) -> None:
        if worker is None:
            return
        if what == "soft":
            self.exits["soft_limit"] += 1
            worker.send(self.plan.soft_signal)
        else:
            worker.end_with_stack("hard_limit", now, self.policy.kill_grace)
            self._selector.register(worker.stack_pipe, selectors.EVENT_READ, worker)

    def _forget_stack(self, worker: WorkerProcess) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.stack_pipe)

    def _prune(self) -> None:
        seconds = self.core.prune()
        self._prune_due = NEVER if seconds is None else time.monotonic() + seconds

    def _watches_memory(self) -> bool:
        return self.policy.max_memory is not None or self.policy.memory_kill is not None

    def _look_at_memory(self) -> None:
        now = time.monotonic()
        if not self._watches_memory() or now < self._next_memory_look:
            return
        self._next_memory_look = now + MEMORY_INTERVAL
        for worker in list(self.workers.values()):
            if worker.dead or not worker.pid or worker.steps:
                continue
            used = anonymous_kib(worker.pid)
            if used is None:
                continue
            limit = self.policy.memory_kill
            if limit is not None and used > limit:
                self.core.doom_running(
                    worker.channel, (MemoryLimitExceeded, (used, limit, worker.pid))
                )
                worker.end_with("memory", signal.SIGKILL, now, 0)
                worker.take_steps(now)
            elif (
                self.policy.max_memory is not None
                and used > self.policy.max_memory
                and worker.why is None
            ):
                worker.why = "memory"
                self.core.retire(worker.channel)

    def _finish(self) -> None:
        terminated = self.phase is Phase.KILLING
        self.core.supervisor_bell = -1
        if terminated:
            self.core.fail_rest(self.reason)
        self.core.prune(everything=True)
        self.core.stop_reaper()
        self._end_template()
        self._close()

    def _close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()
        self.phase = Phase.ENDED
        self._selector.close()
        for name in ("_bell", "_end"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            os.close(fd)
