from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from celery_pool import TaskPool, _poolcore
from guards import Belongings, adopt_orphans, leftovers, sign_names
from support import START_METHODS, Gate

Report: TypeAlias = Generator[None, pytest.TestReport, pytest.TestReport]

FAILED = pytest.StashKey[bool]()

#: Where forked children write their stacks when they crash: many do so on purpose.
stacks = tempfile.TemporaryFile("a+")  # noqa: SIM115 (for as long as the process lives)


def pytest_configure() -> None:
    adopt_orphans()
    sign_names()
    os.register_at_fork(after_in_child=lambda: faulthandler.enable(stacks))
    # a run in the background (CI, nohup) may have been told to ignore what tests send
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure() -> None:
    stacks.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Report:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        stacks.seek(0)
        if text := stacks.read():
            report.sections.append(("Stacks of children that crashed", text))
    if report.when == "teardown":
        stacks.truncate(0)
    return report


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Processes, threads, descriptors and shared memory are back to what they were.

    A test that has failed may have stopped anywhere: what it leaves is ended, and is no error
    of its own.
    """
    before = Belongings.now()
    alive = _poolcore.debug_counters()
    yield
    failed = request.node.stash.get(FAILED, False)
    for name in ("last_exc", "last_value", "last_traceback"):  # pytest's, with the test's variables
        with contextlib.suppress(AttributeError):
            delattr(sys, name)
    left = leftovers(before, deadline=1.0 if failed else 5.0)
    if alive is not None and not failed:  # a debug build
        gc.collect()
        now = _poolcore.debug_counters()
        if now != alive:
            left.append(f"objects of the core: {alive} before, {now} now")
    if left and not failed:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[Callable[..., TaskPool]]:
    """Makes running pools, `pool(limit, **options)`, and terminates them after the test.

    They use the test's `start_method`, or fork if it asks for none.
    """
    names = request.fixturenames
    method = request.getfixturevalue("start_method") if "start_method" in names else "fork"
    made: list[TaskPool] = []

    def make(limit: int | None = 2, **options: object) -> TaskPool:
        options.setdefault("context", method)
        made.append(TaskPool(limit, **options))
        made[-1].run()
        return made[-1]

    yield make
    while made:  # pytest holds on to `make`, so keep no pool in it
        one = made.pop()
        try:
            one._core.check_invariants()
        finally:
            one.terminate()
        one._core.check_invariants()
