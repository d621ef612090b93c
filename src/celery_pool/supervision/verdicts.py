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


def died_unasked(worker: WorkerProcess, phase: Phase, ran_task: bool) -> bool:
    """Whether nobody had told it to end, or it was to end its tasks first.

    :param ran_task: it has claimed one that it has not ended.
    """
    if phase is Phase.KILLING or worker.condemned:
        return False
    channel = worker.channel
    if worker.why is None and not channel.leaving:
        return True
    undone = ran_task or (channel.load > 0 and not channel.wants_to_leave)
    return undone and phase is Phase.RUNNING


def exit_key(worker: WorkerProcess, phase: Phase, unasked: bool) -> str:
    """Its place in ``Statistics.exits``; `unasked`: what died_unasked() says."""
    if phase is Phase.KILLING:
        return "stopped"
    if worker.why is not None and not unasked:
        return worker.why
    if worker.channel.leaving and not worker.exitcode and not unasked:
        return "recycled" if phase is Phase.RUNNING else "stopped"
    if not worker.ready:
        return "failed_start"
    return "signal" if (worker.exitcode or 0) < 0 else "exit_code"


#: With which somebody ends a process, and no process itself.
_SENT = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}


def killed_by_others(worker: WorkerProcess) -> bool:
    """Its start has not failed in itself."""
    return worker.start_error is None and -(worker.exitcode or 0) in _SENT


def template_died() -> StartError:
    """Somebody has killed it: it has not said why."""
    return StartError("the template process died before the workers were ready")


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
