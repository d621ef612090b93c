"""The supervisor: starts, watches, limits and replaces the workers of one run of a pool.

Cold path: it runs once a worker's life and once a time limit, on a thread of its own, so
that a slow callback never delays it. It sleeps until something happens or a deadline comes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import threading
import time
from collections import Counter
from multiprocessing.context import BaseContext

from .. import _poolcore
from ..child.plan import WorkerPlan
from ..errors import CrashLoopError, PoolTerminated, StartError, WorkerLostError
from ..host import forkguard
from ..host.memory import OutOfMemoryKills
from ..wire.remote import load_error
from .bells import LONGEST_POLL, Bells
from .enforcement import Enforcement
from .health import complaints
from .log import Log
from .notices import Notices
from .policy import EXIT_CODE_WAIT, REAPER_GRACE, Phase, Policy, Reason
from .renewal import Renewal
from .restarts import Failures, Restarts
from .roster import Roster
from .start import Start
from .story import Story
from .template_process import TemplateProcess
from .verdicts import cause_of_death, died_unasked, exit_key, template_died
from .worker_process import NEVER, Stage, WorkerProcess


class Supervisor:
    """Workers of one run of a pool.

    Its own thread changes everything. Other threads may call what stands under "called
    by the facade", which set a phase and wake it; a signal handler may call `kill`,
    `stop`, `join`, `wake`: they take no lock. Its thread runs no callback of the user's
    and never waits for the reaper.

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
        self.policy = policy
        self.name = f"TaskPool-{next(self._names)}"
        self.exits: Counter[str] = Counter()
        self.phase = Phase.RUNNING
        self.reason: Reason = (PoolTerminated, {"message": "the pool was terminated"})
        self.start = Start(policy.start_timeout)
        self._waited = False
        self.at_exit = False  # ended because the interpreter does
        self._pid = os.getpid()
        self._log = Log(core)
        self._notices = Notices(f"{self.name}-notices", self._log)
        self._failures = Failures(policy.max_restarts, policy.restart_window, self._log)
        self._restarts = Restarts(policy.max_restarts, policy.restart_window, policy.start_retries)
        self._readied = 0  # workers that came to be ready, until all have once
        self._oom = OutOfMemoryKills()
        self._prune_due = NEVER
        self._selector = selectors.DefaultSelector()
        self.roster = Roster(core, plan, policy, context, processes, self.name, self._selector)
        self._renewal = Renewal(core, policy, self.roster, self._log)
        self._enforcement = Enforcement(
            core, policy, self.roster, self.exits, self._log, self._notices, self._selector
        )
        self._story = Story(core, self.name, self.exits, self._log)
        with forkguard.lock:
            self._bells = Bells()
            forkguard.guard(self)
        self._selector.register(self._bells.listens, selectors.EVENT_READ)
        self._supervisor = threading.Thread(
            target=self._run, name=f"{self.name}-supervisor", daemon=True
        )
        self._reaper = threading.Thread(
            target=core.reaper_loop, name=f"{self.name}-reaper", daemon=True
        )

    def owned_fds(self) -> set[int]:
        """For forkguard."""
        fds = self._bells.fds() | self.roster.release_fds()
        with contextlib.suppress(ValueError):  # it is closed
            fds.add(self._selector.fileno())
        return fds

    # ---- called by the facade ----

    def begin(self, attended: bool) -> None:
        """Starts everything, without waiting.

        :param attended: :meth:`await_ready` follows; else a start that fails breaks
            the pool.
        """
        self.start.begin(attended)
        try:
            # from the caller's thread and before our own: a fork here is as safe
            # as the embedding program lets it be
            self.roster.start_template()
            with contextlib.suppress(ConnectionError):  # it is dead: we shall hear why
                for _ in range(self.roster.processes):
                    self.roster.start_worker(self.reason)
            self.core.supervisor_bell = self._bells.rings
            self._supervisor.start()
        except BaseException:
            self.core.supervisor_bell = -1
            try:
                self.roster.end_templates()
            finally:
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
            self.start.wait()
        except BaseException:
            self.kill()
            self.join(None)
            raise

    def end_start(self) -> None:
        """await_ready() raises PoolTerminated, if it has not returned, once the workers are
        gone. Takes no lock."""
        self.start.abandon()
        self.kill()

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
        for worker in self.roster:
            worker.send(signal.SIGKILL)
        self.wake()

    def join(self, timeout: float | None) -> bool:
        """Waits until the workers are gone and everything in flight has its end;
        not from the supervisor's thread. Takes no lock."""
        if threading.current_thread() is not self._supervisor:
            self._bells.await_end(timeout)
        return self.phase is Phase.ENDED

    def join_threads(self) -> None:
        """After join(): waits, not for ever and only once, until the last callbacks
        have run."""
        if not self.is_own_thread() and self._supervisor.ident is not None and not self._waited:
            self._waited = True
            self._supervisor.join(REAPER_GRACE)
            if self._reaper.ident is not None:
                self._reaper.join(REAPER_GRACE)
            self._notices.join(REAPER_GRACE)

    @property
    def has_ended(self) -> bool:
        return self.phase is Phase.ENDED

    def is_own_thread(self) -> bool:
        return threading.current_thread() in (self._supervisor, self._reaper)

    def in_own_process(self) -> bool:
        return os.getpid() == self._pid

    def wake(self) -> None:
        """Makes the supervisor look; from anywhere, also from a signal handler."""
        self._bells.ring()

    def renew(self) -> None:
        """Has all workers replaced by those of a template that is forked now."""
        self.roster.make_template(renews=True)
        self.wake()

    def complaints(self) -> list[str]:
        """Why the workers are not what they should be; in any thread."""
        return complaints(self._supervisor.is_alive(), self._restarts, self.roster)

    def resize(self, processes: int) -> None:
        """Keeps so many workers from now on."""
        self.roster.processes = self.core.processes = processes
        self.wake()

    # ---- workers ----

    def _template_died(
        self, made: TemplateProcess | None, cause: BaseException | None = None
    ) -> None:
        """Somebody killed it, or it has failed. Its workers live on; their exit
        codes are lost."""
        self.roster.end_template(made)
        if cause is not None and self.start.over.is_set():
            self._log.template_failed(cause)
        self._fail_start(template_died() if cause is None else cause)
        for worker in self.roster:
            if worker.template is not made:
                continue
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

    def _fail_start(self, error: BaseException) -> None:
        if self.start.fail(error) and not self.start.attended:
            self._break(StartError, "the workers could not be started", error)

    def _worker_died(self, worker: WorkerProcess) -> None:
        """Dead for certain. The exit code comes from the template."""
        worker.enter(Stage.DEAD)
        if worker.watched:
            self._selector.unregister(worker.pidfd)
        worker.bury_at = time.monotonic() + EXIT_CODE_WAIT
        if worker.group:
            worker.kill_group()
        if worker.exitcode is not None or worker.orphan:
            self._bury(worker)

    def _bury(self, worker: WorkerProcess) -> None:
        """Recovers the tasks of a dead worker and counts why it is dead."""
        task = self.core.task_of(worker.channel)
        if not worker.exitcode:
            self.roster.heed(worker)  # it may just have said that it leaves
        worker.read_stack()
        self._enforcement.forget_stack(worker)
        killing = self.phase is Phase.KILLING
        unasked = died_unasked(worker, self.phase, task is not None)
        key = exit_key(worker, self.phase, unasked)
        out_of_memory = worker.exitcode == -signal.SIGKILL and self._oom.increased()
        lost = {"pid": worker.pid, "exitcode": worker.exitcode, "out_of_memory": out_of_memory}
        reason = self.reason if killing else (WorkerLostError, lost)
        self.core.recover(worker.channel, reason, not killing)
        del self.roster.workers[worker.serial]
        self.exits[key] += 1
        worker.close()
        self._log.buried(worker, key, task, out_of_memory)
        if unasked:
            self._died_unplanned(worker, task is not None or worker.channel.done > 0)

    def _died_unplanned(self, worker: WorkerProcess, begun: bool) -> None:
        """`begun`: it had claimed a task."""
        if self.start.error is not None:
            return  # run() raises that, or the pool is broken
        cause = cause_of_death(worker)
        started = self.start.over.is_set()
        self._readied -= worker.ready
        over = self._restarts.died(worker, begun, started, self.roster.processes)
        if self.policy.lost_breaks_pool or (over and started):
            self._fail_start(cause)
            self._break(CrashLoopError, over or "a worker died", cause)
        elif over:
            self._fail_start(cause)
        elif not worker.ready:
            self._log.start_failed(worker, cause, self._restarts.outage)

    def _break(
        self, kind: type[CrashLoopError | StartError], what: str, cause: BaseException
    ) -> None:
        """Nothing goes on before the next run()."""
        if self.core.state == _poolcore.PoolState.BROKEN:
            return
        self._log.broken(what, cause)
        self.reason = (
            kind,
            {"message": f"{what}: {type(cause).__name__}: {cause}", "cause": cause},
        )
        self.core.break_pool(self.reason)
        self._notices.tell(self.policy.on_broken, kind(**self.reason[1]))
        self.kill()

    def _to_start(self) -> int:
        """Workers to start, now or after the delay: what is missing, but while starts fail
        one at a time."""
        if self.phase is not Phase.RUNNING or self.start.error is not None:
            return 0
        missing = self.roster.missing()
        return min(missing, 1 - self.roster.starting()) if self._restarts.probing else missing

    def _replenish(self) -> None:
        while self._to_start() > 0 and time.monotonic() >= self._restarts.next_start:
            try:
                if self.roster.template is None:
                    self.roster.start_template()
                self.roster.start_worker(self.reason)
            except ConnectionError:  # the template has just died: a new one, at once
                self._template_died(self.roster.template)
            except OSError as error:  # no process, descriptor or memory to be had now
                over = self._restarts.failed(time.monotonic())
                self._log.start_failed(None, error, self._restarts.outage)
                if over:
                    self._break(CrashLoopError, self._restarts.no_more_retries(), error)

    def _shrink(self) -> None:
        """Lets go of those too many."""
        if self.phase is not Phase.RUNNING:
            return
        for worker in self.roster.too_many():
            worker.why = "shrunk"
            self.core.retire(worker.channel)
            self.wake()  # from now on it has leave_timeout

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self._oom.watch()
            while not self._finished():
                try:
                    self._turn()
                    self._failures.none()
                except Exception as error:
                    if self.phase is Phase.KILLING or not self._failures.bears(error):
                        raise
                    self.wake()  # the next one does what this one has not
        except BaseException as error:  # nobody may wait for ever
            self._abandon(error)
        finally:
            self._finish()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._sleep()):
            if key.fd == self._bells.listens:
                self._bells.hush()
            elif (made := self.roster.template_at(key.fileobj)) is not None:
                self._hear(made)
            elif key.fd == key.data.pidfd:
                self._worker_died(key.data)
            else:
                self._enforcement.forget_stack(key.data)
                key.data.stack_arrives(time.monotonic())
        self._look_at_workers()
        self._enforcement.look_at_limits()
        self._enforcement.look_at_memory()
        self._prune()
        if self.phase is Phase.RUNNING and self._renewal.go_on():
            self.wake()  # from now on they have leave_timeout
        self._replenish()
        self._shrink()
        self.roster.watch()
        self._story.tell()

    def _abandon(self, error: BaseException) -> None:
        """Kills the workers and recovers what they had, with no other help."""
        try:
            self._break(CrashLoopError, "the supervisor has failed", error)
            self._fail_start(error)
        finally:
            with contextlib.ExitStack() as last:  # all of it, whatever fails
                for worker in self.roster:
                    last.callback(self.core.recover, worker.channel, self.reason, False)
                    last.callback(worker.wait)
                    last.callback(worker.kill)

    def _finished(self) -> bool:
        return self.phase in (Phase.STOPPING, Phase.KILLING) and self.roster.all_gone()

    def _sleep(self) -> float | None:
        """Seconds to the next deadline; None: there is none."""
        renewal_due = self._renewal.due() if self.phase is Phase.RUNNING else NEVER
        due = [self._enforcement.due(), self._prune_due, self.roster.due(), renewal_due]
        if self._to_start() > 0:
            due.append(self._restarts.next_start)
        soonest = min(due)
        return None if soonest == NEVER else min(LONGEST_POLL, max(0.0, soonest - time.monotonic()))

    def _hear(self, made: TemplateProcess) -> None:
        message, fds = made.hear()
        if self._renewal.concerns(made):
            return self._renewal.hear(made, message)
        if message is None or message[0] == "broken":
            return self._template_died(made, None if message is None else load_error(message[2]))
        what, serial, detail = message
        if what == "started":
            self.roster.confirm(serial, detail, fds)
            return
        worker = self.roster.workers.get(serial)
        if worker is None:
            return
        if what == "exited":
            worker.exitcode = detail
            if worker.dead:
                self._bury(worker)
            elif worker.pidfd < 0:
                self._worker_died(worker)
        elif what == "failed":
            worker.start_error = StartError(f"a worker could not be forked: {detail}")
            worker.enter(Stage.DEAD)
            self._bury(worker)

    def _look_at_workers(self) -> None:
        now = time.monotonic()
        for worker in self.roster:
            channel = worker.channel
            if worker.dead:
                if now >= worker.bury_at:
                    self._bury(worker)
                continue
            self._enforcement.take_steps(worker, now)
            self.roster.heed(worker)
            if not worker.pid and (self.phase is Phase.KILLING or now >= worker.start_by):
                if self.phase is not Phase.KILLING:
                    # the template does not answer: the next one may
                    self._log.template_is_silent()
                    self._fail_start(self.start.too_slow())
                    self._template_died(worker.template)
                    return
                self._give_up_start(worker)
                continue
            if self.phase is Phase.STOPPING and not channel.leaving:
                self.core.stop_worker(channel)
            if channel.corrupt or self.phase is Phase.KILLING:
                if channel.corrupt and worker.lifeline >= 0:  # not killed yet
                    self._log.garbage(worker)
                worker.kill()
            elif worker.pid and channel.greeted and not worker.ready:
                worker.enter(Stage.READY)
                self.core.ready(channel)
                self._readied += 1
                if self._restarts.probing:
                    self._log.outage_over(worker, self._restarts.outage)
                if self._restarts.succeeded():
                    self._log.replaced(worker)
            elif not worker.ready and now >= worker.start_by:
                worker.start_error = self.start.too_slow()
                worker.kill()
            elif channel.leaving and channel.load == 0:
                if worker.stage is not Stage.LEAVING:
                    worker.enter(Stage.LEAVING)
                    worker.leave_by = now + self.policy.leave_timeout
                elif now >= worker.leave_by:
                    self._log.stuck(worker)
                    worker.kill()
        if not self.start.over.is_set() and self._readied >= self.roster.processes:
            self.start.over.set()
            self._notices.tell(self.policy.on_start)

    def _prune(self) -> None:
        seconds = self.core.prune()
        self._prune_due = NEVER if seconds is None else time.monotonic() + seconds

    def _finish(self) -> None:
        self.core.supervisor_bell = -1
        try:
            with contextlib.ExitStack() as last:  # all of it, whatever fails
                last.callback(self.roster.end_templates)
                last.callback(self.core.stop_reaper)
                last.callback(self.core.prune, everything=True)
                if self.phase is Phase.KILLING:
                    self.core.fail_rest(self.reason)
        except BaseException as error:
            self._break(CrashLoopError, "the supervisor has failed", error)
        finally:
            self._notices.end()
            self._close()
            self.start.over.set()  # nobody waits for that any more

    def _close(self) -> None:
        self.roster.close()
        self._selector.close()
        self._story.end()
        self.phase = Phase.ENDED
        self._bells.end()
