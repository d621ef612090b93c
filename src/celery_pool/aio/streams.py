"""What goes into and comes out of one imap of an AsyncTaskPool; all of it in the loop's
thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any

from ..taskpool import AsyncResult, Window


class Stream:
    """What has become of the tasks of one imap, and where its items come from.

    :param window: of (success, value).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, iterable: Any, window: Window) -> None:
        self._loop = loop
        self.window = window
        self.jobs: dict[int, AsyncResult[Any]] = {}  # those that have not ended
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None
        self.source: Source | AsyncSource
        if isinstance(iterable, AsyncIterable):
            self.source = AsyncSource(loop, iterable, self.wake)
        else:
            self.source = Source(iterable)

    def succeed(self, value: Any, key: int) -> None:
        self._ended(True, value, key)

    def fail(self, error: Any, key: int) -> None:
        self._ended(False, error, key)

    def _ended(self, success: bool, value: Any, key: int) -> None:
        self.jobs.pop(key, None)
        if not self.closed:
            self.window.arrive((success, value), key)
            self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def change(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        self.closed = True
        self.source.close()


class Source:
    """The next item of a plain iterable."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self._filled = False
        self.item: Any = None
        self.exhausted = False

    def ready(self) -> bool:
        """Whether there is an item."""
        if not self._filled and not self.exhausted:
            try:
                self.item = next(self._iterator)
                self._filled = True
            except StopIteration:
                self.exhausted = True
        return self._filled

    def take(self) -> None:
        self.item = None
        self._filled = False

    def close(self) -> None:
        pass


class AsyncSource:
    """The next item of an asynchronous iterable, which a task of its own fetches."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        iterable: AsyncIterable[Any],
        wake: Callable[[], None],
    ) -> None:
        self._iterable = iterable
        self._wake = wake
        self._loop = loop
        self._filled = False
        self._taken: asyncio.Future[None] | None = None
        self.item: Any = None
        self._feeder = loop.create_task(self._feed())

    async def _feed(self) -> None:
        try:
            async for item in self._iterable:
                self.item = item
                self._filled = True
                self._taken = self._loop.create_future()
                self._wake()
                await self._taken
        finally:
            self._loop.call_soon(self._wake)  # when the task has ended

    @property
    def exhausted(self) -> bool:
        return not self._filled and self._feeder.done()

    def ready(self) -> bool:
        if not self._filled and self._feeder.done():
            self._feeder.result()  # its exception
        return self._filled

    def take(self) -> None:
        assert self._taken is not None
        self.item = None
        self._filled = False
        self._taken.set_result(None)

    def close(self) -> None:
        self._feeder.cancel()
