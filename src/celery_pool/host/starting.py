"""Starts a process of multiprocessing's, and leaves nothing open if that fails.

The standard library makes two pipes, one after the other, and more in further steps;
if one of these fails, what it has made until then stays open for ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from multiprocessing.process import BaseProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: How long a fork server may take to end, in seconds.
ENDING = 1.0

_alone = threading.RLock()


def alone() -> contextlib.AbstractContextManager[Any]:
    """While a process is forked in which Python goes on: locks that another start of ours holds at
    that moment, in another thread, of an import say, would stay locked there for ever."""
    return _alone


def _renew_lock() -> None:
    global _alone
    _alone = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def start(process: BaseProcess) -> None:
    """`process.start()`, also in a daemonic process: those may have no children, lest these be
    left over when they are killed, but ours end with their parent. multiprocessing does not
    know of `process` afterwards: it would end it at the exit of a child that the program forks.

    A fork server may be about to end, since a start has failed between two of its steps, in
    this process or in it: as soon as it has ended this starts another."""
    end = time.monotonic() + ENDING
    while True:
        try:
            return _start(process)
        except (ConnectionError, EOFError) as error:
            if time.monotonic() >= end:
                raise ConnectionError(f"the fork server does not answer: {error}") from error
            time.sleep(0.005)


def _start(process: BaseProcess) -> None:
    of: Any = process
    try:
        of._popen = of._Popen(process)
    except OSError as error:
        traceback = error.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            function = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
            left_open, closed_from = _LEAVE_OPEN.get(function, (_nothing, ""))
            if closed_from not in frame.f_locals:
                for fd in left_open(frame.f_locals):
                    with contextlib.suppress(OSError):
                        os.close(fd)
        raise
    of._sentinel = of._popen.sentinel
    del of._target, of._args, of._kwargs  # of what they hold nobody is to wait for its end


def _nothing(names: Mapping[str, Any]) -> list[int]:
    return []


def _pipes(names: Mapping[str, Any]) -> list[int]:
    return [names[n] for n in ("parent_r", "child_w", "child_r", "parent_w") if n in names]


def _both_ends(names: Mapping[str, Any]) -> list[int]:
    return [names["w"], names["self"].sentinel] if "w" in names else []


#: Functions that leave something open: (what, by the function's local names; the name
#: from whose binding on it is closed otherwise).
_LEAVE_OPEN = {
    "multiprocessing.popen_fork.Popen._launch": (_pipes, ""),
    "multiprocessing.forkserver.ForkServer.connect_to_new_process": (_pipes, "allfds"),
    "multiprocessing.popen_forkserver.Popen._launch": (_both_ends, "_parent_w"),
}
