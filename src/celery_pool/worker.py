"""The worker process: what happens before and after its compiled loop."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import _poolcore
from .remote import dump_error


@dataclass(frozen=True)
class WorkerPlan:
    """What all workers of a pool have in common; pickled under spawn and forkserver."""

    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    spin_ns: int
    yields: int


class WorkerFds(NamedTuple):
    """Descriptors of one worker, in the order in which they are sent."""

    pool_segment: int
    parent_bell: int
    segment: int
    bell: int
    lifeline: int


def worker_main(plan: WorkerPlan, fds: WorkerFds, close: list[int]) -> None:
    """Body of a worker, forked from the template.

    :param close: descriptors inherited from the template.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd in close:
        os.close(fd)
    die_with_parent(fds.lifeline)
    end = _poolcore.WorkerEnd(
        fds.pool_segment, fds.parent_bell, fds.segment, fds.bell, plan.spin_ns, plan.yields
    )
    try:
        if plan.initializer is not None:
            plan.initializer(*plan.initargs)
    except BaseException as error:
        end.start_failed(dump_error(error))
        return
    end.hello()
    end.serve()


def die_with_parent(lifeline: int) -> None:
    """Whatever we do then: the parent's end is ours."""
    if not _poolcore.die_with(lifeline):
        threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()


def _watch(lifeline: int) -> None:
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)
