"""Finds the pools of another process: by its descriptors, so that the kernel's permissions
protect them. No socket, no port, nothing prepared in the program."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

from .._poolcore import layout
from .pool import PoolView

SEGMENT = "/memfd:celery_pool (deleted)"
WORKER_SEGMENT = "/memfd:celery_pool worker (deleted)"


class NoPool(LookupError):
    """There is nothing to look at; the text says why, in one sentence."""


class OutsideView(PoolView):
    """A pool of another process.

    :param fd: descriptor of the pool's segment in that process.
    :raises ValueError: the pool is of another build of celery_pool.
    :raises OSError: there is no such descriptor any more.
    """

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self._fd = fd
        with opened(pid, fd, SEGMENT) as own:
            super().__init__(own, lambda fd: opened(pid, fd, WORKER_SEGMENT))
            #: What no other pool has at the same time.
            self.identity = os.fstat(own).st_ino

    def record_until(self, ns: int) -> None:
        """Has the workers' recorders record every task that begins before then.

        :param ns: of CLOCK_MONOTONIC. It is only ever raised: others may be recording.
        :raises FileNotFoundError: the pool is gone.
        """
        at = layout()["trace_until"]
        with opened(self.pid, self._fd, SEGMENT, os.O_RDWR) as own:
            if os.fstat(own).st_ino != self.identity:
                raise FileNotFoundError("the pool is gone")
            (until,) = struct.unpack("Q", os.pread(own, 8, at))
            if until < ns:
                os.pwrite(own, struct.pack("Q", ns), at)


def pools_of(pid: int) -> list[OutsideView]:
    """The pools that run in a process, the oldest first.

    :raises NoPool: the process is not there, has no pool, or one of another build.
    :raises PermissionError: it belongs to somebody else.
    """
    found: list[OutsideView] = []
    others = 0
    for fd in _segments(pid):
        with contextlib.suppress(FileNotFoundError):
            try:
                found.append(OutsideView(pid, fd))
            except ValueError:
                others += 1
    # the segment of one that has ended stands until its objects go
    found = [view for view in found if not _has_ended(view)]
    own = [view for view in found if pid not in {worker.pid for worker in view.workers()}]
    if own:
        return own
    if found:
        owner = found[0].story().get("pid")
        raise NoPool(f"process {pid} is a worker of the pool of process {owner}: look there")
    if others:
        raise NoPool(f"process {pid} runs another build of celery_pool than this command")
    raise NoPool(f"process {pid} runs no pool of celery_pool")


def _has_ended(view: PoolView) -> bool:
    state = view.ledger().state
    return state == "not running" or (state in ("closed", "terminated") and not view.workers())


def _segments(pid: int) -> list[int]:
    try:
        return descriptors(pid, SEGMENT)
    except FileNotFoundError:
        raise NoPool(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionError(
            f"process {pid} belongs to another user: only that user and root may look into it"
        ) from None


def descriptors(pid: int, name: str) -> list[int]:
    """Those of a process that are of the file in memory `name`.

    :raises OSError: there is no such process, or one may not look into it.
    """
    fds = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    return [fd for fd in fds if _link(pid, fd) == name]


def _link(pid: int | str, fd: int) -> str:
    with contextlib.suppress(OSError):  # closed meanwhile
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    return ""


@contextlib.contextmanager
def opened(pid: int, fd: int, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Another process's descriptor of the file in memory `name`, opened once more.

    :raises FileNotFoundError: it is of something else: who looks may be root, and the other
        process may put anything there.
    """
    if _link(pid, fd) != name:
        raise FileNotFoundError(f"process {pid} has no descriptor {fd} of {name} any more")
    # what has just come in its place, a pipe or a terminal say, may not hold us
    own = os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if _link("self", own) != name:
            raise FileNotFoundError(f"process {pid} has no descriptor {fd} of {name} any more")
        yield own
    finally:
        os.close(own)
