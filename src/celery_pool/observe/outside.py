"""Finds the pools of another process: by its descriptors, so that the kernel's permissions
protect them. No socket, no port, nothing prepared in the program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .pool import PoolView

SEGMENT = "/memfd:celery_pool (deleted)"


class NoPool(LookupError):
    """There is nothing to look at; the text says why, in one sentence."""


def pools_of(pid: int) -> list[PoolView]:
    """The pools that run in a process, the oldest first.

    :raises NoPool: the process is not there, has no pool, or one of another build.
    :raises PermissionError: it belongs to somebody else.
    """
    found, others = [], 0
    for fd in _segments(pid):
        with contextlib.suppress(FileNotFoundError), _opened(pid, fd) as own:
            try:
                found.append(PoolView(own, lambda fd: _opened(pid, fd)))
            except ValueError:
                others += 1
    # what a pool was given back stands until its objects go
    found = [view for view in found if view.ledger().state != "not running"]
    if found:
        return found
    if others:
        raise NoPool(f"process {pid} runs another build of celery_pool than this command")
    raise NoPool(f"process {pid} runs no pool of celery_pool")


def _segments(pid: int) -> list[int]:
    try:
        fds = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    except FileNotFoundError:
        raise NoPool(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionError(
            f"process {pid} belongs to another user: only that user and root may look into it"
        ) from None
    return [fd for fd in fds if _link(pid, fd) == SEGMENT]


def _link(pid: int, fd: int) -> str:
    with contextlib.suppress(OSError):  # closed meanwhile
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    return ""


@contextlib.contextmanager
def _opened(pid: int, fd: int, flags: int = os.O_RDONLY) -> Iterator[int]:
    own = os.open(f"/proc/{pid}/fd/{fd}", flags | os.O_CLOEXEC)
    try:
        yield own
    finally:
        os.close(own)
