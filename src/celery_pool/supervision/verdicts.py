"""Why a worker is dead: as the pool counts it, and as it is told."""

from __future__ import annotations

import signal

from ..child.plan import ATTACH_FAILED
from ..errors import AttachError, StartError, WorkerLostError, describe_exit
from ..wire import remote
from .policy import Phase
from .worker_process import WorkerProcess

#: Keys under which ends are counted that nobody wanted.
UNPLANNED = ("signal", "exit_code", "failed_start")


def exit_key(worker: WorkerProcess, phase: Phase) -> str:
    """Its place in ``Statistics.exits``."""
    if phase is Phase.KILLING:
        return "stopped"
    if worker.why is not None:
        return worker.why
    if worker.channel.leaving and not worker.exitcode:
        return "recycled" if phase is Phase.RUNNING else "stopped"
    if not worker.ready:
        return "failed_start"
    return "signal" if (worker.exitcode or 0) < 0 else "exit_code"


#: With which somebody ends a process, and no process itself.
_SENT = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}


def killed_by_others(worker: WorkerProcess) -> bool:
    """Its start has not failed in itself."""
    return worker.start_error is None and -(worker.exitcode or 0) in _SENT


def cause_of_death(worker: WorkerProcess) -> BaseException:
    """Of one that nobody told to end."""
    if worker.start_error is not None:
        return worker.start_error
    if worker.channel.start_error is not None:
        return remote.load_error(worker.channel.start_error)
    if worker.exitcode == ATTACH_FAILED and not worker.ready:
        return AttachError(
            "a worker runs another build of celery_pool than its parent: "
            "was the package upgraded under a running program?"
        )
    if not worker.ready:
        return StartError(f"a worker died before it was ready: {describe_exit(worker.exitcode)}")
    return WorkerLostError(worker.pid, worker.exitcode)
