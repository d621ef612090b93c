"""The supervisor: starts, watches and replaces the workers of one run of a pool.

Cold path: it runs once a worker's life, on a thread of its own, so that a slow
callback never delays it. It sleeps until something happens.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import selectors
import signal
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from . import _poolcore, forkguard, remote, template
from .errors import PoolTerminated, StartError, WorkerLostError, describe_exit
from .worker import WorkerPlan

#: How long a dead worker's exit code is waited for, in seconds.
EXIT_CODE_WAIT = 0.5
#: Before a start is tried again after a failed one; doubles each time, in seconds.
FIRST_DELAY, LONGEST_DELAY = 0.05, 5.0
#: How long the template may take to end, in seconds.
TEMPLATE_GRACE = 2.0
#: How long the template may be unable to take a request, in seconds.
TEMPLATE_STUCK = 10.0

_packet_socket = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)


class Phase(enum.Enum):
    RUNNING = enum.auto()
    STOPPING = enum.auto()  # workers leave after what they have
    KILLING = enum.auto()  # workers are killed, what is in flight fails
    ENDED = enum.auto()


@dataclass(eq=False)
class Worker:
    """One worker process, from the request to the template until it is buried."""

    serial: int
    channel: _poolcore.Channel
    lifeline: int  # write end; closing it kills the worker
    pid: int = 0
    pidfd: int = -1
    ready: bool = False
    stop_sent: bool = False
    dead: bool = False
    exitcode: int | None = None
    bury_at: float = 0.0  # monotonic seconds; when to give up waiting for the exit code

    def kill(self) -> None:
        """SIGKILL, without the risk of hitting a process that got the same pid."""
        if self.dead:
            return
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        elif self.pid and not hasattr(signal, "pidfd_send_signal"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.cut_lifeline()

    def cut_lifeline(self) -> None:
        fd, self.lifeline = self.lifeline, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self.cut_lifeline()
        fd, self.pidfd = self.pidfd, -1
        if fd >= 0:
            os.close(fd)


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
        context: BaseContext,
        processes: int,
        start_timeout: float,
    ) -> None:
        self.core = core
        self.plan = plan
        self.context = context
        self.processes = processes
        self.start_timeout = start_timeout
        self.name = f"TaskPool-{next(self._names)}"
        self.workers: dict[int, Worker] = {}
        self._pid = os.getpid()
        self.phase = Phase.RUNNING
        self.start_error: BaseException | None = None
        self.started = threading.Event()  # all workers ready once, or start_error set
        self.ended = threading.Event()
        self._serials = itertools.count(1)
        self._delay = 0.0  # after the last failed start
        self._next_start = 0.0  # monotonic seconds
        self._selector = selectors.DefaultSelector()
        self._process: BaseProcess | None = None
        self._sock: socket.socket | None = None
        with forkguard.lock:
            self._bell, self._ring = os.pipe()
            forkguard.guard(core)
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
        fds = {self._bell, self._ring, self._selector.fileno()}  # type: ignore[attr-defined]
        for worker in self.workers.values():
            fds |= {worker.lifeline, worker.pidfd}
        if self._sock is not None:
            fds.add(self._sock.detach())
        return fds

    # ---- called by the facade ----

    def start(self) -> None:
        """Starts everything; returns when all workers are ready.

        :raises StartError: not within ``start_timeout``, or a worker died.
        :raises Exception: what the initializer raised.
        """
        try:
            # from the caller's thread and before our own: a fork here is as safe
            # as the embedding program lets it be
            self._start_template()
            for _ in range(self.processes):
                self._start_worker()
        except BaseException:
            self._end_template()
            self._close()
            raise
        self.core.supervisor_bell = self._ring
        self._supervisor.start()
        self._reaper.start()
        try:
            if not self.started.wait(self.start_timeout):
                self.start_error = StartError(
                    f"workers not ready within start_timeout={self.start_timeout} seconds"
                )
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
        """Kills the workers; everything in flight ends with PoolTerminated."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.KILLING
        for worker in list(self.workers.values()):
            worker.kill()
        self.wake()

    def join(self, timeout: float | None) -> bool:
        """Waits until workers and threads are gone; not from one of those threads."""
        if self.is_own_thread():
            return self.ended.is_set()
        if not self.ended.wait(timeout):
            return False
        self._supervisor.join()
        self._reaper.join()
        return True

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

    # ---- the template ----

    def _start_template(self) -> None:
        with forkguard.lock:
            ours, theirs = socket.socketpair(socket.AF_UNIX, _packet_socket)
            self._sock = ours
        ours.settimeout(TEMPLATE_STUCK)
        self._process = self.context.Process(  # type: ignore[attr-defined]
            target=template.template_main,
            args=(theirs, self.plan),
            name=f"{self.name}-template",
            daemon=True,
        )
        try:
            self._process.start()
        finally:
            theirs.close()
        self._selector.register(ours, selectors.EVENT_READ)

    def _end_template(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return
        process.join(TEMPLATE_GRACE)
        if process.is_alive():
            process.kill()
            process.join(TEMPLATE_GRACE)
        with contextlib.suppress(ValueError):  # somebody else has waited for it
            process.close()

    def _template_died(self) -> None:
        """Somebody killed it. Its workers live on; their exit codes are lost."""
        self._end_template()
        if self.phase is Phase.RUNNING and not self.started.is_set():
            self._fail_start(StartError("the template process died before the workers were ready"))
        for worker in list(self.workers.values()):
            if not worker.pid:
                # its start was never confirmed; the lifeline ends it if it exists
                worker.kill()
                self._bury(worker)

    # ---- workers ----

    def _start_worker(self) -> None:
        assert self._sock is not None
        serial = next(self._serials)
        with forkguard.lock:
            channel = _poolcore.Channel(self.core.ring_size)
            theirs, ours = os.pipe()
            self.workers[serial] = Worker(serial, channel, ours)
            self.core.attach(channel)
        try:
            template.send(
                self._sock,
                (serial, f"{self.name}-worker-{serial}"),
                [*self.core.worker_fds(), *channel.worker_fds(), theirs],
            )
        finally:
            os.close(theirs)

    def _fail_start(self, error: BaseException) -> None:
        if not self.started.is_set():
            self.start_error = error
            self.started.set()

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
        if self.phase is Phase.KILLING:
            worker.kill()

    def _worker_died(self, worker: Worker) -> None:
        """Dead for certain. The exit code comes from the template."""
        worker.dead = True
        if worker.pidfd >= 0:
            self._selector.unregister(worker.pidfd)
        worker.bury_at = time.monotonic() + EXIT_CODE_WAIT
        if worker.exitcode is not None or self._sock is None:
            self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Recovers the tasks of a dead worker and, if the pool goes on, replaces it."""
        del self.workers[worker.serial]
        killing = self.phase is Phase.KILLING
        reason: tuple[type[BaseException], tuple[Any, ...]] = (
            (PoolTerminated, ("the pool was terminated",))
            if killing
            else (WorkerLostError, (worker.pid, worker.exitcode))
        )
        self.core.recover(worker.channel, reason, not killing)
        worker.close()
        if worker.channel.start_error is not None:
            self._fail_start(remote.load_error(worker.channel.start_error))
        elif not worker.ready:
            self._fail_start(
                StartError(f"a worker died before it was ready: {describe_exit(worker.exitcode)}")
            )
        if not worker.ready:
            self._hold_back()

    def _hold_back(self) -> None:
        """A start has failed: the next one waits, longer each time."""
        self._delay = min(max(self._delay * 2, FIRST_DELAY), LONGEST_DELAY)
        self._next_start = time.monotonic() + self._delay

    def _replenish(self) -> None:
        """Starts what is missing."""
        if self.phase is not Phase.RUNNING or not self.started.is_set() or self.start_error:
            return
        while len(self.workers) < self.processes and time.monotonic() >= self._next_start:
            try:
                if self._sock is None:
                    self._start_template()
                self._start_worker()
            except OSError as error:  # no process, descriptor or memory to be had now
                self.core.logger.warning("a worker could not be started: %s", error)
                self._hold_back()

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while not self._finished():
                for key, _ in self._selector.select(self._sleep()):
                    if key.fd == self._bell:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._bell, 4096)
                    elif isinstance(key.data, Worker):
                        self._worker_died(key.data)
                    else:
                        self._hear_template()
                self._look_at_workers()
                self._replenish()
        finally:
            self._finish()

    def _finished(self) -> bool:
        return self.phase in (Phase.STOPPING, Phase.KILLING) and not self.workers

    def _sleep(self) -> float | None:
        """Seconds to the next deadline."""
        deadlines = [w.bury_at for w in self.workers.values() if w.dead]
        if self.phase is Phase.RUNNING and len(self.workers) < self.processes:
            deadlines.append(self._next_start)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _hear_template(self) -> None:
        assert self._sock is not None
        try:
            message, fds = template.receive(self._sock)
        except OSError:
            message, fds = None, []
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
            worker.dead = True
            self._fail_start(StartError(f"a worker could not be forked: {detail}"))
            self._bury(worker)

    def _look_at_workers(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers.values()):
            channel = worker.channel
            if worker.dead:
                if now >= worker.bury_at:
                    self._bury(worker)
            elif channel.corrupt or self.phase is Phase.KILLING:
                worker.kill()
            elif worker.pid and channel.greeted and not worker.ready:
                worker.ready = True
                self._delay = 0.0
                self.core.open(channel)
            if self.phase is Phase.STOPPING and not worker.stop_sent:
                worker.stop_sent = self.core.stop_worker(channel)
        if not self.started.is_set() and all(w.ready for w in self.workers.values()):
            self.started.set()

    def _finish(self) -> None:
        terminated = self.phase is Phase.KILLING
        self.phase = Phase.ENDED
        self.core.supervisor_bell = -1
        if terminated:
            self.core.fail_rest((PoolTerminated, ("the pool was terminated",)))
        self.core.stop_reaper()
        self._end_template()
        self._close()
        self.ended.set()

    def _close(self) -> None:
        self._selector.close()
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()
        for name in ("_bell", "_ring"):
            os.close(getattr(self, name))
            setattr(self, name, -1)
