"""Where TaskPoolExecutor differs from what the standard library's tests ask of a
ProcessPoolExecutor. docs/compatibility.md says the same, with the reasons."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from pickle import UnpicklingError

from celery_pool import ResultDecodingError, ResultEncodingError

SLOWER_METHODS = frozenset({"forkserver", "spawn"})
ALL_METHODS = SLOWER_METHODS | {"fork"}

#: Not run: class and test -> start methods.
SKIPPED = {
    "FailingInitializerResourcesTest": ALL_METHODS,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": frozenset({"fork"}),
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": ALL_METHODS,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": SLOWER_METHODS,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": SLOWER_METHODS,
    "ProcessPoolShutdownTest.test_processes_terminate": SLOWER_METHODS,
}

#: Run with lost_breaks_pool=True, as they assert that a dead worker breaks the pool.
OLD_CONTRACT = {
    "ProcessPoolExecutorTest.test_killed_child",
    "ExecutorDeadlockTest.test_crash_at_task_unpickle",
    "ExecutorDeadlockTest.test_crash_during_func_exec_on_worker",
    "ExecutorDeadlockTest.test_crash_during_result_pickle_on_worker",
    "ExecutorDeadlockTest.test_shutdown_deadlock",
    "ExecutorDeadlockTest.test_crash_big_data",
}

#: Run with another exception expected than BrokenProcessPool: one task fails.
OTHER_ERROR = {
    "ExecutorDeadlockTest.test_exit_at_task_unpickle": SystemExit,
    "ExecutorDeadlockTest.test_error_at_task_unpickle": UnpicklingError,
    "ExecutorDeadlockTest.test_error_during_result_pickle_on_worker": ResultEncodingError,
    "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler": ResultDecodingError,
    "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler": ResultDecodingError,
}

#: Run after something was put in place for them.
PREPARED = {
    "ProcessPoolExecutorTest.test_traceback",  # the name of the cause's class
    "ProcessPoolShutdownTest.test_cancel_futures",  # a task that runs
}

DIFFERENCES = {
    **dict.fromkeys(SKIPPED, "skipped"),
    **dict.fromkeys(OLD_CONTRACT, "lost_breaks_pool=True"),
    **dict.fromkeys(OTHER_ERROR, "other exception"),
    **dict.fromkeys(PREPARED, "prepared"),
}

assert BrokenProcessPool not in OTHER_ERROR.values()
