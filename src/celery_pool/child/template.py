"""The template: a single-threaded process that forks all workers of a pool.

``run()`` starts it by the chosen start method. Forking workers from it instead of
from the embedding program means that no replacement is ever forked while other
threads hold locks (of imports, logging, malloc, C libraries), that a replacement
costs one fork under every start method, and that no worker inherits descriptors
it should not have.

The template ends when nothing more can be asked of it and its last worker has ended; and, as
these, with the parent, from its first moment on: its initializer may hang.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import contextlib
import contextvars
import errno
import gc
import multiprocessing
import os
import select
import signal
import socket
import time

from ..wire.remote import dump_error, shortened
from . import blas
from .lifeline import Lifeline
from .loky import forget_executor
from .plan import GROUP_SIGNALS, LONGEST_MESSAGE, WorkerFds, WorkerPlan, receive, send
from .process import Forker
from .worker import show_name, worker_main

#: Python ignores them in every program.
PYTHONS_OWN = {getattr(signal, name, 0) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ")}

#: Pauses after which a message is sent again that could not be sent, in seconds.
TELL_AGAIN = (0.001, 0.01, 0.1)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Requests answered together; each has descriptors, of which a process has not many.
MOST_AT_ONCE = 8


def template_main(
    lifeline: Lifeline, sock: socket.socket, plan: WorkerPlan, pool_name: str, renews: bool
) -> None:
    """Body of the template process; in a context of its own, which its workers inherit: nothing
    of the moment of run() shall stay in them for ever.

    :param renews: tell when it has been initialized: it is not asked for workers before.
    """
    lifeline.hold()
    contextvars.Context().run(_template_main, lifeline, sock, plan, pool_name, renews)


def _template_main(
    lifeline: Lifeline, sock: socket.socket, plan: WorkerPlan, pool_name: str, renews: bool
) -> None:
    # Its children may start processes of their own; in the parent it stays
    # daemonic, so that nothing waits for it at exit.
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    reset_signals(plan.shield)
    forget_executor()
    show_name(multiprocessing.current_process().name)
    if plan.blas_threads is not None:
        blas.limit_threads(plan.blas_threads, plan.blas_spare)
    template = Template(lifeline, sock, plan, pool_name)
    try:
        if plan.template_initializer is not None:
            plan.template_initializer(*plan.template_initargs)
        if plan.blas_threads is not None and not plan.blas_spare:
            blas.limit_loaded(plan.blas_threads)
        if renews:
            template.tell(("initialized", 0, None), [])
        template.serve()
    except BaseException as error:
        template.give_up(error)
    os._exit(0)  # workers are the parent's to end: do not wait for them


def reset_signals(shield: tuple[int, ...]) -> None:
    """Undoes what the embedding program has set for itself. What the whole process group gets
    is the parent's to decide about: the template would leave orphans."""
    for number in range(1, signal.NSIG):
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None) and number not in PYTHONS_OWN:
            _signal.signal(number, _signal.SIG_DFL)
    for number in {*GROUP_SIGNALS, *shield}:
        _signal.signal(number, _signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


class Template:
    def __init__(
        self, lifeline: Lifeline, sock: socket.socket, plan: WorkerPlan, pool_name: str
    ) -> None:
        self.lifeline = lifeline
        self.sock = sock
        self.plan = plan
        self.pool_name = pool_name
        self.children: dict[int, int] = {}  # pids by serial number

    def give_up(self, error: BaseException) -> None:
        """The initializer has failed, or something that cannot be done without."""
        data = dump_error(error)
        if len(data) > LONGEST_MESSAGE // 2:
            data = dump_error(shortened(error))
        with contextlib.suppress(OSError):
            self.tell(("broken", 0, data), [])
            while self.sock.recv(1):  # requests left unread would hide what was told
                pass

    def serve(self) -> None:
        child_bell, ring = os.pipe()
        os.set_blocking(child_bell, False)
        os.set_blocking(ring, False)
        self.forker = Forker(worker_main)
        own = (self.lifeline.fd, self.sock.fileno(), child_bell, ring)
        self.own_fds = [*own, *self.forker.fds]
        _signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        self.hears = select.poll()
        self.hears.register(self.sock, select.POLLIN)
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.register(child_bell, select.POLLIN)
        gc.freeze()  # the collector of a worker would touch, and so copy, every page it inherits
        asked = True
        while asked or self.children:
            for fd, _ in poll.poll():
                if fd == child_bell:
                    os.read(child_bell, 4096)
                    self.report_exits()
                elif not self.answer():
                    asked = False
                    poll.unregister(self.sock)

    def answer(self) -> bool:
        """Forks the workers that the parent asks for; whether it may ask for more."""
        requests, going_on = self.requests()
        forked: list[tuple[int, int]] = []
        while requests:  # in one go: what is touched in between is copied each time
            serial, index, fds = requests.pop(0)
            close = [*self.own_fds, *(fd for _, _, others in requests for fd in others)]
            try:
                if len(fds) < len(WorkerFds._fields):  # some did not fit in here
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                pid = self.children[serial] = self.forker.fork(
                    index,
                    f"{self.pool_name}-worker-{serial}",
                    *(self.plan, WorkerFds(*fds), close, index, self.pool_name),
                )
                forked.append((serial, pid))
            except OSError as error:
                self.tell(("failed", serial, str(error)), [])
            finally:
                for fd in fds:
                    os.close(fd)
        for serial, pid in forked:
            self.tell_started(serial, pid)
        return going_on

    def requests(self) -> tuple[list[tuple[int, int, list[int]]], bool]:
        """Those that have come, as (serial, index, descriptors); whether more may follow."""
        requests: list[tuple[int, int, list[int]]] = []
        try:
            while not requests or (len(requests) < MOST_AT_ONCE and self.hears.poll(0)):
                message, fds = receive(self.sock)
                if message is None:
                    return requests, False
                requests.append((*message, fds))
        except ConnectionError:
            return requests, False
        return requests, True

    def tell_started(self, serial: int, pid: int) -> None:
        pidfds = []
        try:
            if hasattr(os, "pidfd_open"):
                with contextlib.suppress(OSError):  # without it the parent goes by the pid
                    pidfds.append(os.pidfd_open(pid))
            self.tell(("started", serial, pid), pidfds)
        except OSError as error:
            self.tell(("failed", serial, str(error)), [])
        finally:
            for fd in pidfds:
                os.close(fd)

    def report_exits(self) -> None:
        for serial, pid in list(self.children.items()):
            try:
                reaped, status = os.waitpid(pid, os.WNOHANG)
                exitcode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # by somebody else
                reaped, exitcode = pid, None
            if reaped:
                del self.children[serial]
                self.tell(("exited", serial, exitcode), [])

    def tell(self, message: tuple[Any, ...], fds: list[int]) -> None:
        """OSError if there is no memory for it, for a while."""
        for pause in TELL_AGAIN:
            try:
                return send(self.sock, message, fds)
            except ConnectionError:  # the parent is gone: the next receive ends us
                return None
            except OSError:
                time.sleep(pause)
        send(self.sock, message, fds)


def _nothing(signum: int, frame: object) -> None:
    """A handler, so that SIGCHLD reaches the wake-up descriptor."""
