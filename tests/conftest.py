from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator

import pytest

from celery_pool import TaskPool
from guards import Belongings, adopt_orphans, leftovers

START_METHODS = [
    method
    for method in ("fork", "forkserver", "spawn")
    if method in multiprocessing.get_all_start_methods()
]


def pytest_configure() -> None:
    adopt_orphans()
    # a run in the background (CI, nohup) may have been told to ignore what tests send
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def leak_guard() -> Iterator[None]:
    """Processes, threads, descriptors and shared memory are back to what they were."""
    before = Belongings.now()
    yield
    left = leftovers(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


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
        made.pop().terminate()
