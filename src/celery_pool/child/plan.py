"""What the parent and its child processes agree on.

Messages are pickled tuples on a packet socket, descriptors beside them:

    parent -> template   (serial, index)           + what the worker needs
    template -> parent   ("started", serial, pid)  + pidfd
                         ("failed", serial, text)
                         ("exited", serial, exitcode)
                         ("initialized", 0, None) if it is to renew others
                         ("broken", 0, error)     it ends; error: remote.dump_error's
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..wire.picklers import Pickler

#: Exit code of a worker that found shared memory of another build of the package.
ATTACH_FAILED = 78


class WorkerPlan(SimpleNamespace):
    """What all workers of a pool have in common; pickled under spawn and forkserver."""

    template_initializer: Callable[..., object] | None
    template_initargs: tuple[Any, ...]
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    finalizer: Callable[..., object] | None
    finalizer_takes: int  # of (pid, exitcode)
    reseed: bool
    blas_threads: int | None
    blas_spare: frozenset[str]  # environment variables that say so already
    spin_ns: int
    yields: int
    owner: int  # pid of the pool's process
    shield: tuple[int, ...]  # signals that do not end a worker, unless the owner sends them
    soft_signal: int
    soft_limit_error: type[BaseException]
    process_group: bool
    pickler: Pickler | str
    segment_threshold: int
    copy: bool
    leave_on: tuple[type[BaseException], ...]


#: Descriptors of one worker, in the order in which they are sent.
WorkerFds = namedtuple(
    "WorkerFds", ["pool_segment", "parent_bell", "segment", "bell", "lifeline", "stack_pipe"]
)


#: What a process group gets: from a terminal, `timeout`, a service manager, a container's end.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def stack_signal() -> int:
    """Makes a worker write its Python stack; one that programs do not use."""
    return int(signal.SIGRTMIN) + 7 if hasattr(signal, "SIGRTMIN") else int(signal.SIGUSR2)


# ---- the template's messages ----

LONGEST_MESSAGE = 1 << 16
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def send(sock: socket.socket, message: tuple[Any, ...], fds: list[int]) -> None:
    socket.send_fds(sock, [pickle.dumps(message)], fds)


def receive(sock: socket.socket) -> tuple[tuple[Any, ...] | None, list[int]]:
    """(message, descriptors); the message is None at the end. Descriptors are
    non-inheritable, as all that Python makes."""
    data, fds, _, _ = socket.recv_fds(sock, LONGEST_MESSAGE, 16, _CLOEXEC)
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return (pickle.loads(data) if data else None), fds
