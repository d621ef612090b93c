"""The Python stacks of this process, for whoever asks from outside: on a signal, faulthandler
writes them into a file in memory, which the one who asks opens through /proc. So a process
answers that hangs, also in C code.

Who asks holds a lock of the file from before the look at whether we have it until its signal has
been handled; whoever gives the file up takes the lock first. So no signal comes when its action
would be to end the process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import contextlib
import faulthandler
import fcntl
import os

from . import forkguard
from .signals import has_default_action

NAME = "celery_pool stacks"

_fd = -1
_offers = 0


def dump_signal() -> int:
    """The signal; one that programs do not use. The one after it asks a worker for its parent."""
    return int(_signal.SIGRTMIN) + 6 if hasattr(_signal, "SIGRTMIN") else 0


def offer(*, over: bool = False) -> bool:
    """From now on this process answers, if it can; its forked children do not. It takes one
    descriptor, however often it is offered.

    :param over: what others have set for the signal; else they keep it.
    :returns: whether it does; :func:`withdraw` then ends that.
    """
    global _fd, _offers
    with forkguard.lock:
        if _fd < 0:
            _fd = _begin(over)
        _offers += _fd >= 0
        return _fd >= 0


def _begin(over: bool) -> int:
    signum = dump_signal()
    if not signum or not hasattr(os, "memfd_create"):
        return -1
    if not over and not has_default_action(os.getpid(), signum):
        return -1
    fd = -1
    try:
        fd = os.memfd_create(NAME)
        # it begins anew when the one who asks has emptied it
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        faulthandler.register(signum, file=fd, all_threads=True, chain=False)
    except OSError:  # no descriptor, no memory: the pool does without
        if fd >= 0:
            os.close(fd)
        return -1
    return fd


def withdraw() -> None:
    """The counterpart of one :func:`offer`. While somebody asks just now, all stays as it is,
    until the next one."""
    global _offers
    with forkguard.lock:
        _offers -= 1
        if _offers or _fd < 0:
            return
        try:
            fcntl.flock(_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # somebody else has closed it
            pass
        _end()


def _end() -> None:
    global _fd, _offers
    if _signal.getsignal(dump_signal()) in (_signal.SIG_DFL, None):  # nobody has taken it since
        faulthandler.unregister(dump_signal())
    with contextlib.suppress(OSError):
        os.close(_fd)
    _fd, _offers = -1, 0


def _after_in_child() -> None:
    if _fd >= 0:
        _end()


os.register_at_fork(after_in_child=_after_in_child)
