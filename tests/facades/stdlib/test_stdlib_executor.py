"""The standard library's own tests of ProcessPoolExecutor, run with TaskPoolExecutor.

They are loaded from the running interpreter's `test` package; where it has none they
are skipped. Differences are listed in executor_differences.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import multiprocessing.pool
import os
import re
import signal
import types
import unittest
from pathlib import Path
from unittest import mock

import pytest

from celery_pool import TaskPoolExecutor
from executor_differences import DIFFERENCES, OLD_CONTRACT, OTHER_ERROR, SKIPPED
from guards import wait_until
from support import DEADLINE, is_gone

METHODS = ("fork", "forkserver", "spawn")
MIXINS = (
    "ProcessPoolExecutorTest",
    "ProcessPoolShutdownTest",
    "WaitTests",
    "AsCompletedTests",
    "InitializerMixin",
    "FailingInitializerMixin",
    "ExecutorDeadlockTest",
)
# the package of 3.13; earlier it is one module
PARTS = ("util", "test_process_pool", "test_shutdown", "test_wait", "test_as_completed",
         "test_init", "test_deadlock")  # fmt: skip
#: What takes more than half a second a test, and all that is not fork, is slow.
QUICK = {
    "ProcessPoolExecutorTest": {
        "test_submit", "test_submit_keyword", "test_map", "test_map_exception",
        "test_map_chunksize", "test_shutdown_race_issue12456", "test_no_stale_references",
        "test_free_reference", "test_max_workers_negative", "test_traceback",
        "test_killed_child", "test_saturation", "test_python_finalization_error",
    },
    "ProcessPoolShutdownTest": {
        "test_run_after_shutdown", "test_cancel_futures", "test_context_manager_shutdown",
        "test_del_shutdown", "test_shutdown_no_wait", "test_processes_terminate",
        "test_hang_gh94440",
    },
    "WaitTests": {"test_all_completed"},
    "AsCompletedTests": {
        "test_no_timeout", "test_free_reference_yielded_future",
        "test_correct_timeout_exception_msg",
    },
    "InitializerMixin": {"test_initializer"},
    "FailingInitializerMixin": {"test_initializer"},
    "ExecutorDeadlockTest": {
        name.partition(".")[2] for name in OTHER_ERROR
    } | {"test_crash_during_func_exec_on_worker", "test_error_at_task_pickle"},
}  # fmt: skip


def stdlib_tests() -> dict[str, types.ModuleType] | None:
    """Name -> module, of the test classes; None if there are none."""
    try:
        whole = importlib.import_module("test.test_concurrent_futures")
        modules = [whole]
        if hasattr(whole, "__path__"):
            modules = [importlib.import_module(f"{whole.__name__}.{part}") for part in PARTS]
    except (ImportError, unittest.SkipTest):
        return None
    return {
        name: module
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }


class Handle:
    """A worker, as far as the tests look at processes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def join(self) -> None:
        wait_until(lambda: is_gone(self.pid), DEADLINE, f"the end of worker {self.pid}")


class WithInternals(TaskPoolExecutor):
    """With what the tests take from inside of a ProcessPoolExecutor."""

    _call_queue = types.SimpleNamespace(join_thread=lambda: None)

    @property
    def _processes(self) -> dict[int, Handle]:
        pool = self._life.pool
        self._life.begin()
        pids: list[int] = []

        def all_there() -> bool:
            pids[:] = pool.get_worker_pids()
            return len(pids) == self._max_workers

        wait_until(all_there, DEADLINE, "all workers")
        return {pid: Handle(pid) for pid in pids}

    @property
    def _executor_manager_thread(self):
        return self._life._closer


class OldContract(WithInternals):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, lost_breaks_pool=True)


class ShutDownWhileRunning(WithInternals):
    """Does not cancel before a task runs."""

    def shutdown(self, wait=True, *, cancel_futures=False):
        if cancel_futures:
            jobs = self._life.pool._core.pending_jobs
            wait_until(lambda: any(job.worker_pid for job in jobs()), DEADLINE, "a running task")
        super().shutdown(wait, cancel_futures=cancel_futures)


# scripts import it by this name
WithInternals.__name__ = OldContract.__name__ = "TaskPoolExecutor"

PREAMBLE = """\
import concurrent.futures, multiprocessing, celery_pool
concurrent.futures.TaskPoolExecutor = celery_pool.TaskPoolExecutor
"""


class OurMixin:
    """Goes before the standard library's mixin of a start method."""

    def setUp(self):
        self.test_id = f"{self.stdlib_class}.{self._testMethodName}"
        self.executor_type = OldContract if self.test_id in OLD_CONTRACT else WithInternals
        if self._testMethodName == "test_cancel_futures":
            self.executor_type = ShutDownWhileRunning
        with contextlib.ExitStack() as stack:
            if self.stdlib_class == "ProcessPoolShutdownTest":
                self.adapt_shutdown_test(stack)
            if self._testMethodName == "test_traceback":
                stack.enter_context(
                    mock.patch.object(
                        concurrent.futures.process,
                        "_RemoteTraceback",
                        multiprocessing.pool.RemoteTraceback,
                    )
                )
            super().setUp()
            self.addCleanup(stack.pop_all().close)
            self.addCleanup(self.let_go)

    def let_go(self):
        # pytest keeps the test, and it a queue with descriptors
        self.executor_kwargs = self.log_queue = None

    def adapt_shutdown_test(self, stack):
        module = STDLIB[self.stdlib_class]
        run = module.assert_python_ok
        stack.enter_context(
            mock.patch.object(
                module,
                "assert_python_ok",
                lambda option, script, **env: run(option, PREAMBLE + script, **env),
            )
        )
        if self._testMethodName != "test_hang_gh83386":  # that skips itself if they are the same
            stack.enter_context(
                mock.patch.object(concurrent.futures, "ProcessPoolExecutor", self.executor_type)
            )

    def _check_crash(self, error, *args, **kwargs):
        super()._check_crash(OTHER_ERROR.get(self.test_id, error), *args, **kwargs)


def in_scope(cls: str, test: str, method: str) -> bool:
    return method not in SKIPPED.get(f"{cls}.{test}", ())


def make_tests() -> None:
    assert STDLIB is not None
    for method in METHODS:
        mixin = getattr(
            importlib.import_module(STDLIB["ProcessPoolForkMixin"].__name__),
            f"ProcessPool{method.capitalize()}Mixin",
        )
        base = STDLIB["BaseTestCase"].BaseTestCase
        for name in MIXINS:
            body = getattr(STDLIB[name], name)
            cls = type(
                f"{method.capitalize()}{name}",
                (OurMixin, body, mixin, base),
                {"__module__": __name__, "stdlib_class": name},
            )
            for test in unittest.defaultTestLoader.getTestCaseNames(cls):
                function = getattr(cls, test)
                if not in_scope(name, test, method):
                    setattr(cls, test, unittest.skip("see docs/compatibility.md")(function))
                elif method != "fork" or test not in QUICK[name]:
                    setattr(cls, test, pytest.mark.slow(own_copy(function)))
            globals()[cls.__name__] = cls


def own_copy(function):
    @functools.wraps(function)
    def test(self):
        function(self)

    return test


STDLIB = stdlib_tests()
if STDLIB is not None:
    make_tests()

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.mark.skipif(STDLIB is None, reason="this interpreter has no test.test_concurrent_futures")
def test_the_standard_librarys_tests_are_there():
    assert STDLIB is not None
    assert set(MIXINS) <= STDLIB.keys()


def test_the_documentation_lists_the_differences():
    text = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text()
    section = text.partition("\n## concurrent.futures.Executor\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+(?:\.\w+)?)` \| ([^|]+) \| ([^|]+) \| (.+) \|$", section, re.M)
    documented = {name: how.strip() for name, how, _, _ in rows}
    assert documented == DIFFERENCES
    for name, _, methods, reason in rows:
        expected = SKIPPED.get(name, METHODS)
        assert set(methods.replace("all", ", ".join(METHODS)).split(", ")) == set(expected)
        assert reason.strip()


@pytest.mark.skipif(STDLIB is None, reason="this interpreter has no test.test_concurrent_futures")
def test_the_list_of_differences_names_tests_that_exist():
    names = {
        f"{name}.{test}"
        for name in MIXINS
        for test in dir(getattr(STDLIB[name], name))
        if test.startswith("test")
    }
    # a test that a later version has
    later = {"ExecutorDeadlockTest.test_crash_big_data", "FailingInitializerResourcesTest"}
    assert DIFFERENCES.keys() - later <= names
