"""The core's operations one by one, without processes: compiled, and the plain-Python yardstick.

    python -m pytest benchmarks

No assertion on time: pytest-benchmark shows the table, `--benchmark-json` and `--benchmark-compare`
keep and compare it. Figures are for TASKS operations each.
"""

from collections.abc import Callable
from typing import Any

import pytest

import contenders
from contenders.base import Bookkeeping
from plain_bookkeeping import PlainBookkeeping, uuid_tids

pytest.importorskip("pytest_benchmark")

TASKS = 999
LIMIT = TASKS + 1
ROUNDS = 200


def _ours() -> Bookkeeping:
    try:
        return contenders.load("celery_pool")().bookkeeping(LIMIT)
    except (ImportError, NotImplementedError) as error:
        pytest.skip(str(error))


MAKERS: dict[str, Callable[[], Bookkeeping]] = {
    "celery_pool": _ours,
    "plain, integer tids": lambda: PlainBookkeeping(LIMIT),
    "plain, uuid tids": lambda: PlainBookkeeping(LIMIT, uuid_tids()),
}


@pytest.fixture(params=MAKERS)
def bookkeeping(request: pytest.FixtureRequest) -> Bookkeeping:
    return MAKERS[request.param]()


def callback(result: Any, meta: Any) -> None:
    pass


def fill(bookkeeping: Bookkeeping) -> None:
    submit, callbacks = bookkeeping.submit, [callback]
    for _ in range(TASKS):
        submit(callbacks)


def empty(bookkeeping: Bookkeeping) -> int:
    bookkeeping.finish_all()
    return bookkeeping.reap()


@pytest.mark.benchmark(group="submit: record, queue, limit check")
def test_submit(benchmark: Any, bookkeeping: Bookkeeping) -> None:
    benchmark.pedantic(fill, args=(bookkeeping,), teardown=empty, rounds=ROUNDS, warmup_rounds=5)
    assert empty(bookkeeping) == 0


@pytest.mark.benchmark(group="reap: collect, unqueue, callback")
def test_reap(benchmark: Any, bookkeeping: Bookkeeping) -> None:
    def finished() -> None:
        fill(bookkeeping)
        bookkeeping.finish_all()

    reaped = benchmark.pedantic(bookkeeping.reap, setup=finished, rounds=ROUNDS, warmup_rounds=5)
    assert reaped == TASKS


@pytest.mark.benchmark(group="full: the limit check alone")
def test_full(benchmark: Any, bookkeeping: Bookkeeping) -> None:
    fill(bookkeeping)

    def ask() -> None:
        full = bookkeeping.full
        for _ in range(TASKS):
            full()

    benchmark.pedantic(ask, rounds=ROUNDS, warmup_rounds=5)
    assert not bookkeeping.full()
    assert empty(bookkeeping) == TASKS
