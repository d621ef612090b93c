"""Keeps what belongs to the pools of this process out of its forked children.

A child that kept the write end of a lifeline would keep orphaned workers alive;
one that kept segments would keep their memory. Children made by exec never get
them: all descriptors are non-inheritable.
"""

from __future__ import annotations

import contextlib
import os
import threading
from weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Owner(Protocol):
        def owned_fds(self) -> set[int]:
            """Descriptors to close in a forked child; -1 is ignored."""
            ...


#: Held while descriptors are made until their owner knows them; a fork waits for it.
lock = threading.RLock()
_owners: set[ref[Owner]] = set()  # no WeakSet: each forked child goes through it


def guard(owner: Owner) -> None:
    """From now on a forked child closes what `owner` owns."""
    _owners.add(ref(owner, _owners.discard))


def _after_in_child() -> None:
    global lock
    lock = threading.RLock()
    owners = [known() for known in list(_owners)]
    _owners.clear()  # or a child's child would close what has its number there
    with contextlib.ExitStack() as all_of_them:  # whatever fails
        for owner in owners:
            if owner is not None:
                all_of_them.callback(_close, owner)


def _close(owner: Owner) -> None:
    for fd in owner.owned_fds():
        with contextlib.suppress(OSError):
            os.close(fd)


def _before() -> None:
    lock.acquire()


def _after_in_parent() -> None:
    lock.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
