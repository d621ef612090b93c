"""The options of pools: their names, types, defaults and what they mean.

TypedDicts, to be used as ``**options: Unpack[PoolOptions]``. They are one's own to wrap a
pool with, too.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Iterable, Mapping
from multiprocessing.context import BaseContext

from .child.plan import GROUP_SIGNALS
from .errors import SoftTimeLimitExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypedDict

    from .wire.picklers import Pickler
else:

    class TypedDict(dict):
        """typing's, without its import: the same names, docstrings and dictionaries."""

        __optional_keys__ = frozenset()

        def __init_subclass__(cls, total=True):
            cls.__optional_keys__ = cls.__optional_keys__ | frozenset(cls.__annotations__)


class SharedOptions(TypedDict, total=False):
    """What all pools take, Pool and TaskPoolExecutor besides what the standard library has a
    name of its own for; :class:`PoolOptions` says what each means."""

    start_timeout: float
    spin: float | Literal["auto"]
    soft_timeout: float | None
    timeout: float | None
    kill_grace: float
    hard_grace: float | None
    leave_timeout: float
    kill_group: bool
    soft_signal: int
    soft_limit_error: type[BaseException]
    soft_limit_repeat: float | None
    on_soft_timeout: Callable[[Hashable], object] | None
    on_timeout: Callable[[Hashable], object] | None
    max_bytes: int | None
    max_memory_per_child: int | None
    memory_kill: int | None
    max_restarts: int
    restart_window: float
    start_retries: int | None
    on_start: Callable[[], object] | None
    on_broken: Callable[[BaseException], object] | None
    template_initializer: Callable[..., object] | None
    template_initargs: Iterable[Any]
    reseed: bool
    blas_threads: int | Literal["auto"] | None
    finalizer: Callable[..., object] | None
    leave_on: type[BaseException] | tuple[type[BaseException], ...]
    shield: Iterable[int]
    ignore_sigint: bool | None
    pickler: Pickler | None
    segment_threshold: int
    copy: bool
    trace: bool


class WorkerOptions(SharedOptions, total=False):
    """Those of AsyncTaskPool and the joblib backend: what is theirs to say of the workers, too."""

    context: BaseContext | str | None
    initializer: Callable[..., object] | None
    initargs: Iterable[Any]
    maxtasksperchild: int | None


class PoolOptions(WorkerOptions, total=False):
    """The options of :class:`TaskPool`, beside its `limit`, `reap_timeout` and `logger`.

    Workers and their start

    :param processes: worker processes; default: `limit`, or without a limit the
        CPUs usable by this process (affinity and cgroup quota). At most `limit`;
        with a larger limit tasks queue at the workers.
    :param context: a multiprocessing context or a start method's name; default:
        multiprocessing's own default.
    :param initializer: called as ``initializer(*initargs)`` in each worker before
        its first task.
    :param initargs: for it; default: none.
    :param template_initializer: called as ``template_initializer(*template_initargs)`` once,
        in the process from which all workers are forked, before the first of them: what it
        imports and loads is there in every worker, at the cost of a fork. It must leave no
        thread running; its time counts in `start_timeout`. What it raises, ``run`` raises.
        If that process is killed, the one that takes its place calls it again.
    :param template_initargs: for it; default: none.
    :param start_timeout: seconds within which ``run`` has to have all workers
        ready; default: 60.
    :param on_start: called as ``on_start()``, once a ``run``, when all workers have
        become ready; of interest with ``run(wait=False)``.
    :param reseed: True (default): each worker gets a state of its own of NumPy's global random
        generator, if ``numpy.random`` is loaded. False: under fork all have that of ``run``.
    :param blas_threads: threads that numeric libraries (BLAS, OpenMP, Numba, NumExpr) use in a
        worker: those that are loaded by `template_initializer` or later are told by environment
        variables, the others by threadpoolctl, if that is installed. ``"auto"``: the CPUs
        usable by this process, shared out among the workers, but what the environment says at
        ``run`` is left as it is. None (default): whatever they take.

    Their end

    :param maxtasksperchild: tasks after which a worker is recycled; None: never. Its
        successor stands by, and is given its first task when the last result of the old
        one is here: never more than `processes` tasks run at a time.
    :param max_memory_per_child: KiB of anonymous resident memory above which a
        worker is recycled after its task.
    :param memory_kill: KiB above which it is killed at once and its task fails with
        MemoryLimitExceeded.
    :param leave_on: a class of exceptions, or a tuple of them: a worker whose task has
        raised one leaves, once it has told so, and is replaced. By default none.
    :param leave_timeout: seconds that a worker which was told to leave may take
        after its last task (for `finalizer`, and processes and threads that tasks
        have left) before it is killed; default: 60.
    :param finalizer: called in each worker that leaves in order: as ``finalizer()``,
        ``finalizer(pid)`` or ``finalizer(pid, exitcode)``, as its signature asks.
    :param kill_grace: seconds between the signal that asks a worker to end and
        SIGKILL; default: 1. The task is reported as failed within 0.2 seconds all the same.
    :param kill_group: make each worker the leader of a process group and kill the
        group with it, so that children of a task go, too; default: False.
    :param shield: signals that do not end workers when their process group gets them (from
        a terminal, ``timeout``, systemd, ``docker stop``), so that the program can drain the
        pool; default: SIGINT, SIGTERM, SIGHUP and SIGQUIT, or, of Pool and TaskPoolExecutor,
        SIGINT. Those that the pool or its program sends to a worker still do, but for
        SIGINT, and those that a task sends to itself. Processes that tasks start do not inherit
        it. The template outlives them in any case.
    :param ignore_sigint: True, False: `shield` with or without SIGINT.
    :param max_restarts: how often each worker (on average) may die, once ready, within
        `restart_window` seconds without having begun a task; default: 100. Past it the pool
        is broken (CrashLoopError).
    :param restart_window: in seconds; default: 60.
    :param start_retries: how often in a row the start of a replacement may be tried again
        after it has failed (its initializer raises, or is not done within `start_timeout`)
        before the pool is broken (CrashLoopError); None (default): for ever. Tasks wait
        meanwhile. One worker at a time tries, after a delay that grows to a second, in an
        outage of minutes to a sixtieth of its length, 30 seconds at most; when it succeeds
        the others follow.
    :param on_broken: called as ``on_broken(error)`` when the pool breaks, with the
        CrashLoopError or StartError that its tasks end with. A ``run`` that raises
        has not broken it. It and `on_start` run in a thread of their own, one after the
        other, and beside callbacks; they may call the pool. What they raise is logged.

    Limits of a task

    :param soft_timeout: seconds after its start when SoftTimeLimitExceeded is raised
        inside a task; None: no limit. A task may have its own.
    :param soft_signal: the signal that carries it to the worker; default: SIGUSR1.
    :param soft_limit_error: the class that is raised by it, if another one; without arguments.
    :param soft_limit_repeat: seconds after which it is raised again in a task that goes on;
        None: never.
    :param on_soft_timeout: called as ``on_soft_timeout(tid)`` when a soft limit has been
        signalled.
    :param timeout: seconds after its start when a task is killed; it fails with
        TimeLimitExceeded and its worker is replaced. None: no limit.
    :param hard_grace: `kill_grace` after it; None: the same.
    :param on_timeout: called as ``on_timeout(tid)`` when a task is past its `timeout`. Both
        as `on_broken` is.

    What is sent, and who waits for it

    :param max_bytes: most bytes of pickled arguments in flight before a submission waits;
        None: no limit.
    :param callbacks_in: where callbacks run, never two at once. ``"any"`` (default): in the
        background reaper, or in a thread inside ``apply_async``, ``add``, ``reap``,
        ``wait_for_result`` or ``join``, as in the original; ``get()`` and
        ``wait()`` run at most their own job's. ``"reaper"``: in the background
        thread only. ``"caller"``: inside those calls only.
    :param spin: microseconds that a waiting thread spins before it gives the CPU
        away; ``"auto"`` (default): as suits the number of CPUs; 0: never.
    :param pickler: pickles targets, arguments and results: anything with `dumps` and
        `loads` as in the module pickle (None: that module). With the module
        cloudpickle also lambdas, closures and functions of ``__main__``, which
        then travel with each task.
    :param segment_threshold: bytes from which a buffer of an argument or result (of an
        array, say) leaves the pickle for shared memory of its own; default: 16384. Pickles
        of more than 65504 bytes do so in any case.
    :param copy: False (default): arrays (and whatever else pickles its buffers apart) of 1 MiB
        and more live in shared memory, in tasks and as results, writable, and it is
        used again when the last of them is gone. True: they get memory of their own.

    Looking inside

    :param trace: True: each worker keeps a record of its last 4,096 tasks, for
        ``celery-pool trace``; False (default): only while that runs.
    """

    processes: int | None
    callbacks_in: Literal["any", "reaper", "caller"]


#: Bytes; measured by benchmarks/workloads/payload.py, see docs/performance.md.
SEGMENT_THRESHOLD = 16384

DEFAULTS: PoolOptions = {
    "processes": None,
    "context": None,
    "initializer": None,
    "initargs": (),
    "template_initializer": None,
    "template_initargs": (),
    "start_timeout": 60.0,
    "on_start": None,
    "reseed": True,
    "blas_threads": None,
    "maxtasksperchild": None,
    "max_memory_per_child": None,
    "memory_kill": None,
    "leave_on": (),
    "leave_timeout": 60.0,
    "finalizer": None,
    "kill_grace": 1.0,
    "kill_group": False,
    "shield": GROUP_SIGNALS,
    "ignore_sigint": None,
    "max_restarts": 100,
    "restart_window": 60.0,
    "start_retries": None,
    "on_broken": None,
    "soft_timeout": None,
    "soft_signal": signal.SIGUSR1,
    "soft_limit_error": SoftTimeLimitExceeded,
    "soft_limit_repeat": None,
    "on_soft_timeout": None,
    "timeout": None,
    "hard_grace": None,
    "on_timeout": None,
    "max_bytes": None,
    "callbacks_in": "any",
    "spin": "auto",
    "pickler": None,
    "segment_threshold": SEGMENT_THRESHOLD,
    "copy": False,
    "trace": False,
}


def check_names(given: Mapping[str, object], names: frozenset[str], taker: type) -> None:
    """TypeError for an option that `taker` does not take, as Python would tell it.

    :param names: of its options: ``PoolOptions.__optional_keys__``, say.
    """
    for name in given:
        if name in names:
            continue
        import difflib
        import inspect

        text = f"{taker.__name__}() got an unexpected keyword argument {name!r}"
        if name in DEFAULTS:
            raise TypeError(f"{text}: it is an option of TaskPool, but not here")
        known = {*names, *inspect.signature(taker).parameters}
        similar = difflib.get_close_matches(name, known, 1)
        raise TypeError(text + "".join(f". Did you mean {other!r}?" for other in similar))


__all__ = [
    "PoolOptions",
    "SharedOptions",
    "WorkerOptions",
]
