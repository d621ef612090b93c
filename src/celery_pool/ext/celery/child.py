"""What happens in the processes: the template loads the application, each worker takes Celery's
initializer for itself, and every task is called through here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from billiard.common import (
    TERMSIGS_FULL,
    _shutdown_cleanup,
    clear_terminate_handler_fired,
    reset_signals,
    terminate_handler_fired,
)
from billiard.process import BaseProcess, _children, _set_current_process
from billiard.util import set_pdeathsig
from celery import platforms, signals
from celery.app import trace
from celery.fixups.django import DjangoFixup

from celery_pool import current_worker

#: Django's fixup goes by the name of the pool's class.
POOL = "celery_pool.ext.celery.prefork:TaskPool"

Destructor = Callable[[int, int], object]

_destructor: Destructor | None = None
_exitcode = os.EX_OK


def load(app: Any, hostname: str) -> None:
    """In the template: what every child would otherwise import and build by itself."""
    platforms.set_process_title("celeryd", info=f"{hostname}:template")
    app.loader.init_worker()
    app.finalize()
    for name in ("amqp", "backend", "control", "events", "oid"):
        getattr(app, name)
    app.connection_for_write().transport  # noqa: B018  # imports it, and connects to nothing
    set_pdeathsig(0)  # the first call imports a parser of C, where cffi is installed
    for name, task in app.tasks.items():
        trace.build_tracer(name, task, app.loader, hostname, app=app)
    for fixup in vars(app)["_fixups"]:
        if isinstance(fixup, DjangoFixup):
            keep_databases_apart(app, fixup)


def keep_databases_apart(app: Any, fixup: DjangoFixup) -> None:
    """In the template: closes what it has of Django's connections, so that no child has them,
    too. One that is no fork of the main process has yet to be told that this is a worker;
    else tasks would leave their connections open."""
    its = fixup.worker_fixup
    if os.environ.get("FORKED_BY_MULTIPROCESSING"):
        fixup.on_worker_init(sender=SimpleNamespace(app=app, pool_cls=POOL))
        # loads and checks all models, in each child: here, once
        signals.worker_process_init.disconnect(its.on_worker_process_init)
    its.on_worker_process_init()


class PoolProcess(BaseProcess):  # type: ignore[misc]
    """This process as billiard and multiprocessing are to see it: log lines, file names with
    ``%i`` and process titles go by it."""

    def __init__(self, index: int) -> None:
        pythons = multiprocessing.current_process()
        serial = pythons.name.rpartition("-")[2]
        super().__init__(name=f"ForkPoolWorker-{serial}")
        self.index = index
        its: Any = vars(pythons)
        self._config = {**its["_config"]}
        self._identity = its["_identity"]
        self._parent_pid = os.getppid()


def enter(
    initializer: Callable[..., object],
    initargs: tuple[Any, ...],
    destructor: Destructor | None,
    all_signals: bool,
) -> None:
    """In each worker, before its first task: what billiard's processes do.

    :param initializer: Celery's, called with `initargs`.
    :param destructor: called with the pid and exit code of this process when it leaves.
    :param all_signals: all that would end the process raise SystemExit in it, not only those
        that are meant to.
    """
    global _destructor
    worker = current_worker()
    assert worker is not None
    _children.clear()
    _set_current_process(PoolProcess(worker.index))
    clear_terminate_handler_fired()
    initializer(*initargs)
    set_pdeathsig(0)  # Celery's initializer ties it to the template; the pool's own ends it
    reset_signals(full=all_signals)
    os.register_at_fork(after_in_child=forget_handlers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _destructor = destructor


def forget_handlers() -> None:
    """In a process that a task starts: signals end it. Billiard's handlers raise SystemExit, for
    the worker's sake; a signal that ends multiprocessing's processes could be lost by that."""
    for name in TERMSIGS_FULL:
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is _shutdown_cleanup:
            signal.signal(number, signal.SIG_DFL)


def leave(pid: int, exitcode: int) -> None:
    """In each worker, at its end."""
    if _destructor is not None:
        _destructor(pid, exitcode or _exitcode)


def fast_trace_task(*args: Any) -> Any:
    return call(trace.fast_trace_task, *args)


def trace_task_ret(*args: Any) -> Any:
    return call(trace.trace_task_ret, *args)


def call(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The body of a task."""
    global _exitcode
    try:
        return target(*args, **kwargs)
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else None
        _exitcode = code if isinstance(code, int) else 1
        if terminate_handler_fired():
            # the handler raised SystemExit: the task has not ended, and is lost with its process
            _die(_exitcode)
        raise


def _die(exitcode: int) -> None:
    try:
        leave(os.getpid(), exitcode)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        if exitcode < 0:  # the signal's handler is the default one again
            os.kill(os.getpid(), 256 + exitcode)
        os._exit(exitcode & 0xFF)
