"""The core's operations one by one, without processes: compiled, and the plain-Python yardstick.

submit, add, full and reap are measured for both. Encoding and decoding are part of submit, serve
and reap: these are measured with an argument, too. Claim and publish are single steps of the
rings in C.

    python -m pytest benchmarks

No assertion on time: pytest-benchmark shows the table, `--benchmark-json` and `--benchmark-compare`
keep and compare it. Figures are for TASKS operations each.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import rings
from contenders.base import Bookkeeping
from contenders.ours import CompiledBookkeeping
from plain_bookkeeping import PlainBookkeeping, uuid_tids
from task_bodies import echo, noop

pytest.importorskip("pytest_benchmark")

TASKS = 999
LIMIT = TASKS + 1
ROUNDS = 200


ARGUMENTS = {"nothing": (), "a small argument": ("a small argument",)}


MAKERS: dict[str, Callable[[], Bookkeeping]] = {
    "celery_pool": lambda: CompiledBookkeeping(LIMIT),
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


class Result(Future[None]):
    """A result of another pool, with the interface of both kinds of those."""

    ready = Future.done
    get = Future.result


@pytest.mark.benchmark(group="add: queue the result of another pool")
def test_add(benchmark: Any, bookkeeping: Bookkeeping) -> None:
    results: list[Result] = []

    def fresh() -> None:
        results[:] = [Result() for _ in range(TASKS)]

    def add_all() -> None:
        add, callbacks = bookkeeping.add, [callback]
        for result in results:
            add(result, callbacks)

    def finish() -> int:
        for result in results:
            result.set_result(None)
        return bookkeeping.reap()

    benchmark.pedantic(add_all, setup=fresh, teardown=finish, rounds=ROUNDS, warmup_rounds=5)
    fresh()
    add_all()
    assert finish() == TASKS


def driven(argument: str) -> tuple[CompiledBookkeeping, Callable[[], None]]:
    """A pool whose worker's loop runs here, and what submits TASKS calls to it."""
    pool, args = CompiledBookkeeping(LIMIT), ARGUMENTS[argument]
    function = echo if args else noop
    return pool, lambda: pool.submit_calls(function, args, [callback], TASKS)


@pytest.mark.benchmark(group="submit with encoding of the arguments")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_encode(benchmark: Any, argument: str) -> None:
    pool, submit = driven(argument)
    benchmark.pedantic(submit, teardown=lambda: empty(pool), rounds=ROUNDS, warmup_rounds=5)
    assert empty(pool) == 0


@pytest.mark.benchmark(group="serve, as the worker: claim, decode, call, encode, publish")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_serve(benchmark: Any, argument: str) -> None:
    pools: list[CompiledBookkeeping] = []

    def submitted() -> None:
        pool, submit = driven(argument)
        submit()
        pools[:] = [pool]

    def serve() -> None:
        pools[0].serve()

    benchmark.pedantic(serve, setup=submitted, rounds=ROUNDS, warmup_rounds=5)
    assert pools[0].reap() == TASKS


@pytest.mark.benchmark(group="reap with decoding of the results")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_decode(benchmark: Any, argument: str) -> None:
    pools: list[CompiledBookkeeping] = []

    def served() -> None:
        pool, submit = driven(argument)
        submit()
        pool.serve()
        pools[:] = [pool]

    def reap() -> int:
        return pools[0].reap()

    reaped = benchmark.pedantic(reap, setup=served, rounds=ROUNDS, warmup_rounds=5)
    assert reaped == TASKS


@pytest.fixture
def lanes() -> rings.Lanes:
    try:
        return rings.Lanes(1)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.benchmark(group="claim: the claim word taken and finished, in C")
def test_claim(benchmark: Any, lanes: rings.Lanes) -> None:
    claim_many = lanes.library.claim_many
    claimed = benchmark.pedantic(claim_many, args=(TASKS,), rounds=ROUNDS, warmup_rounds=5)
    assert claimed == TASKS


@pytest.mark.benchmark(group="publish: a frame reserved and published, in C")
def test_publish(benchmark: Any, lanes: rings.Lanes) -> None:
    published = benchmark.pedantic(
        lanes.library.publish_many,
        args=(TASKS,),
        teardown=lambda _: lanes.consume_all(),
        rounds=ROUNDS,
        warmup_rounds=5,
    )
    assert published == TASKS


@pytest.mark.benchmark(group="take: a frame taken off a ring, in C")
def test_take(benchmark: Any, lanes: rings.Lanes) -> None:
    taken = benchmark.pedantic(
        lanes.consume_all,
        setup=lambda: lanes.library.publish_many(TASKS) and None,
        rounds=ROUNDS,
        warmup_rounds=5,
    )
    assert taken == TASKS
