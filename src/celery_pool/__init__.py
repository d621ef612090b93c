"""A process pool for high-throughput workers: the TaskPool that Celery once
documented, on a compiled shared-memory core. Works without Celery.

What stands here is imported when it is asked for: a program that uses one facade
does not pay for the others, and neither do the workers."""

from ._version import __version__

TYPE_CHECKING = False  # typing's would cost its import
if TYPE_CHECKING:
    from . import errors
    from .child.current import CurrentWorker, current_worker
    from .einfo import ExceptionInfo
    from .errors import *  # noqa: F403 - each of errors.__all__
    from .executor import TaskFuture, TaskPoolExecutor
    from .observe.facts import FunctionStatistics, WorkerInfo
    from .observe.histogram import Histogram
    from .options import PoolOptions
    from .pool import Pool
    from .reports import DrainReport, Health, Statistics
    from .taskpool import AsyncResult, TaskPool

    __all__ = [
        "AsyncResult",
        "CurrentWorker",
        "DrainReport",
        "ExceptionInfo",
        "FunctionStatistics",
        "Health",
        "Histogram",
        "Pool",
        "PoolOptions",
        "Statistics",
        "TaskFuture",
        "TaskPool",
        "TaskPoolExecutor",
        "WorkerInfo",
        "__version__",
        "current_worker",
    ]
    __all__ += errors.__all__

#: Where the names of `__all__` are defined; all others: errors.
_HOMES = {
    "AsyncResult": "taskpool",
    "CurrentWorker": "child.current",
    "DrainReport": "reports",
    "ExceptionInfo": "einfo",
    "FunctionStatistics": "observe.facts",
    "Health": "reports",
    "Histogram": "observe.histogram",
    "Pool": "pool",
    "PoolOptions": "options",
    "Statistics": "reports",
    "TaskFuture": "executor",
    "TaskPool": "taskpool",
    "TaskPoolExecutor": "executor",
    "WorkerInfo": "observe.facts",
    "__version__": "_version",
    "current_worker": "child.current",
}
_PUBLIC_MODULES = ("einfo", "errors", "options")

if not TYPE_CHECKING:  # or any name would pass the type checkers

    def __getattr__(name):
        from importlib import import_module

        if name in _PUBLIC_MODULES:
            return import_module(f".{name}", __name__)
        if name == "__all__":
            value = sorted([*_HOMES, *import_module(".errors", __name__).__all__])
        elif name in _HOMES or (name[0] != "_" and name in __getattr__("__all__")):
            value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__"), *_PUBLIC_MODULES})
