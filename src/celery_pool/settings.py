"""A pool's options, checked, and turned into what its parts want to know."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import contextlib
import multiprocessing
import operator
import os
import signal
import threading
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext

from ._poolcore import CallbacksIn, Core
from .child import blas
from .child.plan import WorkerPlan, stack_signal
from .host.cpus import usable_cpus
from .options import DEFAULTS
from .supervision.policy import Policy
from .wire import picklers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Literal

    from .options import PoolOptions

#: Signals that a worker may be told to treat in a way of its own.
_FREE_SIGNALS = frozenset(_signal.valid_signals()) - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    stack_signal(),
}

_CALLBACKS_IN = {
    "any": CallbacksIn.ANY_THREAD,
    "reaper": CallbacksIn.REAPER_ONLY,
    "caller": CallbacksIn.CALLER_ONLY,
}


class Settings:
    """What a :class:`TaskPool` was given: `options`, and the defaults of the others.

    :raises TypeError, ValueError: the first one that makes no sense.
    """

    def __init__(self, limit: int | None, reap_timeout: float | None, options: PoolOptions) -> None:
        given: PoolOptions = {**DEFAULTS, **options}
        if limit is not None:
            limit = count("limit", limit)
        processes = given["processes"]
        if processes is not None:
            processes = count("processes", processes)
            if limit is not None and processes > limit:
                raise ValueError(
                    f"processes={processes} is more than limit={limit}: some would never work"
                )
        _check_callables(given)
        _check_times(reap_timeout, given)
        callbacks_in = given["callbacks_in"]
        if callbacks_in not in _CALLBACKS_IN:
            raise ValueError(
                f"callbacks_in must be 'any', 'reaper' or 'caller', not {callbacks_in!r}"
            )
        context = given["context"]
        self.limit = limit
        self.processes = processes or limit or usable_cpus()
        self.context = (
            context if isinstance(context, BaseContext) else multiprocessing.get_context(context)
        )
        self.start_timeout = given["start_timeout"]
        self.max_tasks = count_or_none("maxtasksperchild", given["maxtasksperchild"])
        self.max_memory = count_or_none("max_memory_per_child", given["max_memory_per_child"])
        self.memory_kill = count_or_none("memory_kill", given["memory_kill"])
        self.kill_grace = given["kill_grace"]
        hard_grace = given["hard_grace"]
        self.hard_grace = self.kill_grace if hard_grace is None else hard_grace
        self.leave_timeout = given["leave_timeout"]
        self.max_restarts = count("max_restarts", given["max_restarts"])
        self.restart_window = given["restart_window"]
        self.start_retries = count_or_none("start_retries", given["start_retries"], least=0)
        self.soft_timeout = given["soft_timeout"]
        self.timeout = given["timeout"]
        self.on_start = given["on_start"]
        self.on_broken = given["on_broken"]
        self.on_soft_timeout = given["on_soft_timeout"]
        self.on_timeout = given["on_timeout"]
        self.max_bytes = count_or_none("max_bytes", given["max_bytes"])
        self.callbacks_in = _CALLBACKS_IN[callbacks_in]
        self.spin_ns, self.yields = _patience(given["spin"], self.processes)
        self.pickler = picklers.checked(given["pickler"])
        self.segment_threshold = count("segment_threshold", given["segment_threshold"])
        self.copy = given["copy"]
        self.trace = given["trace"]
        self.initializer = given["initializer"]
        self.initargs = tuple(given["initargs"])
        self.template_initializer = given["template_initializer"]
        self.template_initargs = tuple(given["template_initargs"])
        self.finalizer = given["finalizer"]
        self.finalizer_takes = 0 if self.finalizer is None else _arguments_taken(self.finalizer)
        self.reseed = given["reseed"]
        threads = given["blas_threads"]
        self.blas_threads: int | Literal["auto"] | None = (
            threads if threads == "auto" else count_or_none("blas_threads", threads)
        )
        self.leave_on = _exception_classes("leave_on", given["leave_on"])
        self.shield = _shield(given["shield"], given["ignore_sigint"])
        self.soft_signal = _soft_signal(given["soft_signal"])
        if self.soft_signal in self.shield:
            raise ValueError(
                f"soft_signal={given['soft_signal']!r} would never get through the shield"
            )
        self.soft_limit_error = given["soft_limit_error"]
        _exception_classes("soft_limit_error", self.soft_limit_error)
        self.soft_limit_repeat = given["soft_limit_repeat"]
        self.kill_group = given["kill_group"]

    def plan(self, processes: int) -> WorkerPlan:
        """What the workers are told.

        :param processes: as it is now: it may have been changed.
        """
        threads = self.blas_threads
        if threads == "auto":
            threads = max(1, usable_cpus() // processes)
        return WorkerPlan(
            template_initializer=self.template_initializer,
            template_initargs=self.template_initargs,
            initializer=self.initializer,
            initargs=self.initargs,
            finalizer=self.finalizer,
            finalizer_takes=self.finalizer_takes,
            reseed=self.reseed,
            blas_threads=threads,
            blas_spare=blas.set_by_user() if self.blas_threads == "auto" else frozenset(),
            spin_ns=self.spin_ns,
            yields=self.yields,
            owner=os.getpid(),
            shield=self.shield,
            soft_signal=self.soft_signal,
            soft_limit_error=self.soft_limit_error,
            process_group=self.kill_group,
            pickler=picklers.to_send(self.pickler),
            segment_threshold=self.segment_threshold,
            copy=self.copy,
            leave_on=self.leave_on,
        )

    def policy(self, lost_breaks_pool: bool) -> Policy:
        """What the supervisor is told."""
        return Policy(
            start_timeout=self.start_timeout,
            max_tasks=self.max_tasks,
            max_memory=self.max_memory,
            memory_kill=self.memory_kill,
            soft_signal=self.soft_signal,
            kill_grace=self.kill_grace,
            hard_grace=self.hard_grace,
            leave_timeout=self.leave_timeout,
            max_restarts=self.max_restarts,
            restart_window=self.restart_window,
            start_retries=self.start_retries,
            on_start=self.on_start,
            on_broken=self.on_broken,
            on_soft_timeout=self.on_soft_timeout,
            on_timeout=self.on_timeout,
            lost_breaks_pool=lost_breaks_pool,
        )

    def new_core(
        self, limit: int | None, overridden: bool, logger: logging.Logger | None, last_tid: int
    ) -> Core:
        """The compiled core of one run.

        :param limit: as it is now: it may have been changed.
        :param overridden: the pool has its own on_return or on_ready.
        """
        core = Core(
            limit,
            self.callbacks_in,
            overridden,
            logger,
            last_tid,
            pickler=self.pickler,
            threshold=self.segment_threshold,
            copies=self.copy,
        )
        core.set_patience(self.spin_ns, self.yields)
        if self.trace:
            core.trace(None)
        core.set_limits(
            self.soft_timeout,
            self.timeout,
            self.max_bytes,
            soft_again=self.soft_limit_repeat,
            wake_at_first_task=self.max_memory is not None or self.memory_kill is not None,
        )
        return core


def count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an integer from `least`."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    value = operator.index(value)
    if not least <= value < 1 << 62:
        raise ValueError(f"{name} must be from {least} to 2**62, not {value}")
    return int(value)


def count_or_none(name: str, value: Any, least: int = 1) -> int | None:
    """The same, where None means: no bound."""
    return None if value is None else count(name, value, least)


def check_seconds(name: str, value: Any) -> None:
    """TypeError or ValueError unless `value` is a time to wait."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"{name} must be from 0 to {threading.TIMEOUT_MAX:.0f} seconds, not {value}"
        )


def _check_callables(given: PoolOptions) -> None:
    for name, function in (
        ("initializer", given["initializer"]),
        ("template_initializer", given["template_initializer"]),
        ("finalizer", given["finalizer"]),
        ("on_start", given["on_start"]),
        ("on_broken", given["on_broken"]),
        ("on_soft_timeout", given["on_soft_timeout"]),
        ("on_timeout", given["on_timeout"]),
    ):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable, not {type(function).__name__}")


def _check_times(reap_timeout: float | None, given: PoolOptions) -> None:
    for name, seconds in (
        ("start_timeout", given["start_timeout"]),
        ("kill_grace", given["kill_grace"]),
        ("leave_timeout", given["leave_timeout"]),
        ("restart_window", given["restart_window"]),
    ):
        check_seconds(name, seconds)
    for name, if_any in (
        ("hard_grace", given["hard_grace"]),
        ("reap_timeout", reap_timeout),
        ("spin", None if given["spin"] == "auto" else given["spin"]),
        ("soft_timeout", given["soft_timeout"]),
        ("timeout", given["timeout"]),
        ("soft_limit_repeat", given["soft_limit_repeat"]),
    ):
        if if_any is not None:
            check_seconds(name, if_any)


def _arguments_taken(finalizer: Callable[..., object]) -> int:
    """How many of (pid, exitcode) it is called with: those it needs, or names."""
    import inspect

    try:
        signature = inspect.signature(finalizer)
    except ValueError:  # of a builtin that does not tell
        return 0
    for count in range(3):
        with contextlib.suppress(TypeError):
            signature.bind(*("pid", "exitcode")[:count])
            break
    else:
        raise TypeError(f"finalizer{signature} cannot be called with (), (pid) or (pid, exitcode)")
    names = list(signature.parameters)[:2]
    return max(count, next(n for n in (2, 1, 0) if names[:n] == ["pid", "exitcode"][:n]))


def _exception_classes(name: str, given: Any) -> tuple[type[BaseException], ...]:
    classes = given if isinstance(given, tuple) else (given,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"{name} must be of exception classes, not {one!r}")
    return classes


def _shield(shield: Iterable[int], ignore_sigint: bool | None) -> tuple[int, ...]:
    numbers = {operator.index(number) for number in shield}
    for number in numbers:
        if number not in _FREE_SIGNALS:
            raise ValueError(f"shield={shield!r}: signal {number} cannot be kept off")
    if ignore_sigint is not None:
        numbers = numbers - {signal.SIGINT} | ({signal.SIGINT} if ignore_sigint else set())
    return tuple(sorted(int(number) for number in numbers))


def _soft_signal(number: int) -> int:
    if number not in _FREE_SIGNALS:
        raise ValueError(f"soft_signal={number!r} cannot carry the soft limit")
    return int(number)


def _patience(spin: float | Literal["auto"], processes: int) -> tuple[int, int]:
    """(nanoseconds to spin, times to yield) before a thread parks."""
    if spin == "auto":
        # with fewer CPUs than processes a spinner keeps the others from working
        spin = 2 if processes + 1 > usable_cpus() else 5
    elif spin == 0:
        return 0, 0
    return int(spin * 1000), 100
