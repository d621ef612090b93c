"""The worker process: what happens before and after its compiled loop."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import faulthandler
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from .. import _poolcore
from ..errors import AttachError
from ..host import dumps
from ..wire import picklers
from ..wire.remote import dump_error
from . import current
from .lifeline import die_with_parent
from .plan import ATTACH_FAILED, GROUP_SIGNALS, WorkerFds, WorkerPlan, stack_signal
from .shield import default_handler, raise_shield, raise_shield_again


def worker_main(
    plan: WorkerPlan, fds: WorkerFds, close: list[int], index: int, pool_name: str
) -> None:
    """Body of a worker, forked from the template.

    :param close: descriptors inherited from the template.
    """
    signal.set_wakeup_fd(-1)
    _signal.signal(signal.SIGCHLD, _signal.SIG_DFL)
    for number in GROUP_SIGNALS:  # the template ignores them
        if number not in plan.shield:
            _signal.signal(number, default_handler(number))
    raise_shield(plan.shield, plan.owner)
    for fd in close:
        os.close(fd)
    die_with_parent(fds.lifeline)
    if plan.process_group:
        os.setpgid(0, 0)
    show_name(multiprocessing.current_process().name)
    faulthandler.register(stack_signal(), file=fds.stack_pipe, all_threads=True)
    dumps.offer(over=True)
    try:
        end = _poolcore.WorkerEnd(
            fds.pool_segment,
            fds.parent_bell,
            fds.segment,
            fds.bell,
            plan.spin_ns,
            plan.yields,
            picklers.received(plan.pickler),
            plan.segment_threshold,
            plan.copy,
            plan.leave_on,
        )
    except AttachError:
        sys.exit(ATTACH_FAILED)
    current.become(current.CurrentWorker(end, index, pool_name))
    if plan.reseed:
        reseed()
    try:
        if plan.initializer is not None:
            plan.initializer(*plan.initargs)
    except BaseException as error:
        end.start_failed(dump_error(error))
        return
    # after the initializer, which may have another idea of these signals
    raise_shield_again(plan.shield, plan.owner)
    _signal.signal(plan.soft_signal, soft_limit_handler(end, plan.soft_limit_error))
    end.hello()
    try:
        end.serve()
    except KeyboardInterrupt:  # between two tasks, without a shield against SIGINT
        sys.exit(128 + signal.SIGINT)
    if plan.finalizer is not None:
        plan.finalizer(*(os.getpid(), os.EX_OK)[: plan.finalizer_takes])
    # as at the end of a program: executors that tasks have left end their processes, which
    # multiprocessing would wait for first
    threading._shutdown()  # type: ignore[attr-defined]


def reseed() -> None:
    """Else all workers would draw the same numbers from NumPy's global generator. Python's own
    is seeded by multiprocessing."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def soft_limit_handler(
    end: _poolcore.WorkerEnd, error: type[BaseException]
) -> Callable[[int, FrameType | None], None]:
    def handler(signum: int, frame: FrameType | None) -> None:
        # it may come late: then its task is over, and another one may run
        if end.soft_limit_meant():
            raise error

    return handler


def show_name(name: str) -> None:
    """In `ps`, if setproctitle is installed."""
    set_title = title_setter()
    if set_title is not None:
        set_title(name)


@functools.cache
def title_setter() -> Callable[[str], object] | None:
    """Looked for once, in the template: an import that fails costs a worker more than its fork."""
    try:
        from setproctitle import setproctitle  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return setproctitle  # type: ignore[no-any-return,unused-ignore]
