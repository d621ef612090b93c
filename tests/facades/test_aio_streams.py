"""AsyncTaskPool.imap and imap_unordered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import tasks
from event_loops import new_pool, until

# ---- imap_unordered


async def numbers(count: int, error: Exception | None = None) -> AsyncIterator[int]:
    for i in range(count):
        if i % 3 == 0:
            await asyncio.sleep(0)
        yield i
    if error is not None:
        raise error


@pytest.mark.parametrize("source", [range, numbers], ids=["plain", "asynchronous"])
@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
def test_imap_unordered(run, source, buffersize):
    async def main():
        async with new_pool() as pool:
            stream = pool.imap_unordered(tasks.same, source(300), buffersize=buffersize)
            assert sorted([value async for value in stream]) == list(range(300))
            assert [v async for v in pool.imap_unordered(tasks.same, source(0))] == []

    run(main)


@pytest.mark.parametrize("source", [range, numbers], ids=["plain", "asynchronous"])
@pytest.mark.parametrize("buffersize", [None, 1, 3, 1000])
def test_imap_in_order(run, source, buffersize):
    async def main():
        async with new_pool() as pool:
            stream = pool.imap(tasks.same, source(300), buffersize=buffersize)
            assert [value async for value in stream] == list(range(300))
            assert [v async for v in pool.imap(tasks.same, source(0))] == []

    run(main)


def test_imap_in_order_waits_for_the_first(run, gate):
    """What ends early is kept, and counts in the buffer."""

    async def main():
        taken = []

        def jobs() -> Iterator[Any]:
            yield tasks.pass_gate, gate.path, 0
            for i in range(1, 100):
                taken.append(i)
                yield tasks.same, i

        async with new_pool() as pool:
            stream = pool.imap(tasks_call, jobs(), buffersize=6)
            first = asyncio.ensure_future(anext(stream))
            await until(lambda: pool.statistics().succeeded == 5)
            assert not first.done() and taken == [1, 2, 3, 4, 5]
            gate.open()
            assert await first == 0
            assert [value async for value in stream] == list(range(1, 100))

    run(main)


def test_imap_in_order_with_exceptions(run):
    async def main():
        async with new_pool() as pool:
            stream = pool.imap(tasks.invert, [1, 0, 2], return_exceptions=True)
            found = [value async for value in stream]
            assert found[0] == 1 and isinstance(found[1], ZeroDivisionError) and found[2] == 0.5
            stream = pool.imap(tasks.invert, [1, 0, 2])
            assert await anext(stream) == 1
            with pytest.raises(ZeroDivisionError):
                await anext(stream)

    run(main)


@pytest.mark.parametrize("buffersize, error", [(2.5, TypeError), ("3", TypeError), (0, ValueError)])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_buffersize_is_checked(run, method, buffersize, error):
    async def main():
        async with new_pool() as pool:
            with pytest.raises(error, match="buffersize"):
                getattr(pool, method)(tasks.same, [1], buffersize=buffersize)

    run(main)


def test_imap_yields_what_is_there(run, gate):
    async def main():
        async with new_pool() as pool:
            jobs = [(tasks.pass_gate, gate.path), *((tasks.same, i) for i in range(5))]
            stream = pool.imap_unordered(tasks_call, jobs)
            assert sorted([await anext(stream) for _ in range(5)]) == list(range(5))
            gate.open()
            assert await anext(stream) is None
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main)


def tasks_call(item: tuple[Callable[..., Any], Any]) -> Any:
    return item[0](*item[1:])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_imap_is_lazy(run, asynchronous):
    async def main():
        taken = 0

        def plain() -> Iterator[int]:
            nonlocal taken
            while True:
                taken += 1
                yield taken

        async def asynchronously() -> AsyncIterator[int]:
            for value in plain():
                yield value

        async with new_pool(64) as pool:
            source = asynchronously() if asynchronous else plain()
            stream = pool.imap_unordered(tasks.same, source, buffersize=5)
            await asyncio.sleep(0.01)
            assert taken == 0
            for seen in range(1, 30):
                await anext(stream)
                await asyncio.sleep(0.001)
                assert taken <= seen + 5 + asynchronous
            await stream.aclose()

    run(main)


@pytest.mark.parametrize("source", [range, numbers], ids=["plain", "asynchronous"])
def test_imap_failure(run, source, gate):
    async def main():
        async with new_pool(processes=1) as pool:
            with pytest.raises(ZeroDivisionError):
                async for _ in pool.imap_unordered(invert, source(5)):
                    pass
            await until(lambda: pool.statistics().in_flight == 0)
            stream = pool.imap_unordered(invert, source(5), return_exceptions=True)
            results = [value async for value in stream]
            assert sorted(r for r in results if isinstance(r, float)) == [0.25, 1 / 3, 0.5, 1.0]
            assert [type(r) for r in results if not isinstance(r, float)] == [ZeroDivisionError]

    run(main)


def invert(value: int) -> float:
    return 1 / value


def test_imap_the_source_fails(run):
    async def main():
        def plain() -> Iterator[int]:
            yield from range(3)
            raise KeyError("plain")

        async with new_pool() as pool:
            for source in (plain(), numbers(3, KeyError("asynchronous"))):
                with pytest.raises(KeyError):
                    async for _ in pool.imap_unordered(tasks.same, source):
                        pass
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


@pytest.mark.parametrize("how", ["aclose", "collected", "cancelled"])
def test_leaving_imap_cancels_the_rest(run, gate, how):
    async def main():
        async with new_pool(processes=1) as pool:

            async def consume() -> None:
                items = [(tasks.same, 0)] + [(tasks.pass_gate, gate.path)] * 5
                stream = pool.imap_unordered(tasks_call, items)
                async for _ in stream:
                    if how != "cancelled":
                        break
                if how == "aclose":
                    await stream.aclose()

            consumer = asyncio.create_task(consume())
            if how == "cancelled":
                await until(gate.waiting)
                consumer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await consumer
            del consumer
            gc.collect()
            await until(lambda: pool.statistics().in_flight == 0, "nothing in flight")
            statistics = pool.statistics()
            assert statistics.submitted == 6
            assert statistics.succeeded == 1
            assert await pool.submit(tasks.same, 1) == 1

    run(main)


def test_two_streams_and_submits_share_the_pool(run):
    async def main():
        async with new_pool(3, 2) as pool:

            async def consume(count: int) -> int:
                return sum([v async for v in pool.imap_unordered(tasks.same, range(count))])

            singles = [pool.submit(tasks.same, i) for i in range(100)]
            results = await asyncio.gather(consume(200), consume(300), *singles)
            assert results == [sum(range(200)), sum(range(300)), *range(100)]

    run(main)
