"""The template as its parent sees it: start, requests, end."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from ..child import template
from ..child.lifeline import Lifeline
from ..child.plan import GROUP_SIGNALS, WorkerPlan, receive, send
from ..child.worker import title_setter
from ..host import starting
from ..host.files import close_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How long the killed template may take to end, in seconds.
TEMPLATE_GRACE = 2.0
#: How long the template may be unable to take a request, in seconds.
TEMPLATE_STUCK = 10.0

_packet_socket = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)


class TemplateProcess:
    """One template process, from `connect` and `start` to `end`; used by one thread.

    :param renews: it says so when it has been initialized, and takes the place of another one
        only then.
    """

    sock: socket.socket  # readable when it says something, or has ended
    _theirs: socket.socket
    _lifeline = _their_lifeline = -1
    _forker = 0  # the thread that forks the template, while it does

    def __init__(
        self, context: BaseContext, plan: WorkerPlan, pool_name: str, renews: bool
    ) -> None:
        self._context = context
        self._plan = plan
        self._pool_name = pool_name
        self._process: BaseProcess | None = None
        self._pidfd = -1
        self._dismissed = False
        self.renews = renews
        self.started = 0.0  # when it was, monotonic seconds
        self.heard = False  # the selector knows it

    def connect(self) -> None:
        """Makes the socket pair and the lifeline; first of all."""
        self.sock, self._theirs = socket.socketpair(socket.AF_UNIX, _packet_socket)
        try:
            self.sock.settimeout(TEMPLATE_STUCK)
            self._their_lifeline, self._lifeline = os.pipe()
        except BaseException:
            self.sock.close()
            self._theirs.close()
            raise

    def start(self) -> None:
        """Starts the process. If it raises, `end` has to follow all the same."""
        try:
            process = self._context.Process(  # type: ignore[attr-defined]
                target=template.template_main,
                # the lifeline first: it holds before what the plan names is imported
                args=(
                    Lifeline(self._their_lifeline),
                    self._theirs,
                    self._plan,
                    self._pool_name,
                    self.renews,
                ),
                name=f"{self._pool_name}-template",
                daemon=True,
            )
            method = self._context.get_start_method()
            if method == "forkserver":
                _preload()
            with starting.alone() if method == "fork" else contextlib.nullcontext():
                if method == "fork":
                    self._forker = threading.get_ident()
                    title_setter.cache_clear()
                    title_setter()  # looked for here: the child would copy what that touches
                with _without_group_signals(self._context):
                    starting.start(process)
        finally:
            self._forker = 0
            self._theirs.close()
            close_fds(self, "_their_lifeline")
        self._process = process
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # without it its end is seen a little later
                self._pidfd = os.pidfd_open(process.pid)
        self.started = time.monotonic()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def ask_for_worker(self, serial: int, index: int, fds: list[int]) -> None:
        """Has a worker forked that gets `fds`. ConnectionError: the template is dead."""
        send(self.sock, (serial, index), fds)

    def hear(self) -> tuple[tuple[Any, ...] | None, list[int]]:
        """(message, descriptors); the message is None if it is dead."""
        try:
            return receive(self.sock)
        except OSError:
            return None, []

    def detach(self) -> set[int]:
        """In a forked child: the descriptors to close; the objects let go of them."""
        fds = {self.sock.detach(), self._pidfd, self._lifeline}
        if self._forker != threading.get_ident():  # else it is the template itself
            fds |= {self._theirs.detach(), self._their_lifeline}
        return fds

    def dismiss(self) -> None:
        """Nothing more is asked: it ends when it has told of its last worker's exit."""
        if not self._dismissed:
            self._dismissed = True
            with contextlib.suppress(OSError):  # it is dead
                self.sock.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Its workers live on."""
        self.sock.close()
        close_fds(self, "_lifeline")
        process, self._process = self._process, None
        pidfd, self._pidfd = self._pidfd, -1
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has nothing to do any more
            if pidfd >= 0:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            else:
                process.kill()
        _await_exit(process, pidfd)
        if pidfd >= 0:
            os.close(pidfd)
        # somebody else has waited for it; loky's processes close themselves when they are dropped
        with contextlib.suppress(ValueError, AttributeError):
            process.close()


def _await_exit(process: BaseProcess, pidfd: int) -> None:
    """Of one that has been killed; and reaps it, if nobody else has done that. Not by
    multiprocessing's join: it would wait for a pipe that the workers keep open."""
    end = time.monotonic() + TEMPLATE_GRACE
    if pidfd >= 0:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(1000 * TEMPLATE_GRACE)
        end = 0.0  # the status is there, or somebody else's: the forkserver's
    while process.exitcode is None and time.monotonic() < end:
        time.sleep(0.001)


def _preload() -> None:
    """The forkserver imports what templates need, once for all pools, besides what the program
    wants it to. It does so when it starts; one that runs already stays as it is."""
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    if getattr(server, "_preload_on_error", "ignore") == "ignore":
        wanted = server._preload_modules
        if template.__name__ not in wanted:
            server._preload_modules = [*wanted, template.__name__]


@contextlib.contextmanager
def _without_group_signals(context: BaseContext) -> Iterator[None]:
    """A process started meanwhile is deaf to what its group gets, until it has set itself up. (A
    forkserver's children are not ours to make so.)"""
    method = context.get_start_method()
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        if method != "fork":
            from multiprocessing import resource_tracker

            # stays deaf to those that it does not ignore; its start unblocks those that it does
            resource_tracker.ensure_running()
            group = () if method == "forkserver" else GROUP_SIGNALS
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask.union(group))
        yield
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
