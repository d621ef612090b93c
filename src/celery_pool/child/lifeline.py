"""A pipe whose other end only the pool's process holds: its end is ours, whatever we do then."""

from __future__ import annotations

import os
import select
import signal
import threading
from multiprocessing import reduction

from .. import _poolcore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Lifeline:
    """The template's. Nobody has to call anything where it is pickled, that is under all start
    methods but fork: it holds from when it arrives, and so while modules of the program are
    imported for what arrives behind it.

    :param fd: the end of the pipe that is read.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def hold(self) -> None:
        """From now on. Where the platform has no signal for it, the template sees its parent's
        end when it has been initialized."""
        _poolcore.die_with(self.fd)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (reduction.DupFd(self.fd),)


def _arrive(duplicate: Any) -> Lifeline:
    lifeline = Lifeline(duplicate.detach())
    lifeline.hold()
    return lifeline


def die_with_parent(lifeline: int) -> None:
    """In a worker."""
    if not _poolcore.die_with(lifeline):
        threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()


def _watch(lifeline: int) -> None:
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)
