"""Who waits for a slot of an AsyncTaskPool, or for its end; all of it in the loop's thread."""

from __future__ import annotations

import asyncio
import sys
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facade_side import LoopSide


class Slots:
    """First come, first served.

    The pool itself is never asked to wait: a submission takes a slot that is free, or
    one that it has been granted here.
    """

    _side: LoopSide

    def __init__(self, limit: int | None) -> None:
        self.set_limit(limit)
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.granted = 0  # given to some that have not taken them yet
        self._full_at = -1  # `reaped` when arguments found no room; -1: none wait for that
        self._drained: list[asyncio.Future[None]] = []  # they wait until nothing is pending

    def begin(self, side: LoopSide) -> None:
        """A new run of the pool."""
        self._side = side
        self.granted = 0
        self._full_at = -1
        self._say_who_waits()

    def _say_who_waits(self) -> None:
        """So that submissions know; after every change of `waiting` and `granted`."""
        self._side.crowded = bool(self.waiting or self.granted)

    def set_limit(self, limit: int | None) -> None:
        self._limit = sys.maxsize if limit is None else limit
        self._full_at = -1

    def all_taken(self) -> bool:
        """Whether a newcomer has to wait."""
        return bool(self.waiting) or self._side.in_flight + self.granted >= self._limit

    async def wait(self) -> None:
        """Waits for a slot; the caller takes it at once."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        self.grant()  # those in front may all have been cancelled
        await self._granted_to(waiter)

    async def wait_in_front(self) -> None:
        """Waits until something has ended, in front of all others. From now on one
        after the other tries whether there is room for its arguments."""
        self._full_at = self._side.reaped
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.appendleft(waiter)
        self._say_who_waits()
        await self._granted_to(waiter)

    async def _granted_to(self, waiter: asyncio.Future[None]) -> None:
        try:
            if not waiter.done():
                await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.granted -= 1  # just now: for the next one
                self.grant()
            else:
                waiter.cancel()
            raise
        self.granted -= 1
        self._say_who_waits()

    def grant(self) -> None:
        """Gives free slots to those who wait; a pool that takes no tasks tells each so."""
        waiting = self.waiting
        while waiting and self._may_grant():
            waiter = waiting.popleft()
            if not waiter.done():
                self.granted += 1
                waiter.set_result(None)
        if not waiting:
            self._full_at = -1
        self._say_who_waits()

    async def drained(self) -> None:
        """Waits until nothing is pending."""
        if self._side.pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
            await waiter

    def after_reap(self) -> None:
        """Tasks may have ended."""
        if self.waiting:
            self.grant()
        if self._drained and not self._side.pending:
            for waiter in self._drained:
                if not waiter.done():
                    waiter.set_result(None)
            self._drained.clear()

    def _may_grant(self) -> bool:
        side = self._side
        if not side.running:
            return True
        if side.in_flight + self.granted >= self._limit:
            return False
        return self._full_at < 0 or (not self.granted and side.reaped != self._full_at)
