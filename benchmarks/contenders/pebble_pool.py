"""pebble.ProcessPool."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

import pebble

from contenders.base import AwaitableCall, ExecutorLike, Function


class PebblePool(ExecutorLike):
    name = "pebble"
    distribution = "Pebble"
    survives_kill = True
    recycles = True

    def _open(self, processes: int, context: str) -> None:
        self._executor = pebble.ProcessPool(
            processes, max_tasks=self.recycle, context=multiprocessing.get_context(context)
        )

    def _future(self, function: Function, args: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = self._executor.schedule(function, args=args)
        return future

    @contextlib.asynccontextmanager
    async def on_asyncio(
        self, processes: int, in_flight: int, context: str
    ) -> AsyncIterator[AwaitableCall]:
        async def call(function: Function, /, *args: Any) -> Any:
            return await asyncio.wrap_future(self._future(function, args))

        self.start(processes, None, context)
        try:
            yield call
        finally:
            self.close()

    def close(self) -> None:
        self._executor.stop()
        self._executor.join()


CONTENDER = PebblePool
