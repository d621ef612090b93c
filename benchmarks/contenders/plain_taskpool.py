"""The documented TaskPool in plain Python over multiprocessing.Pool: plain_bookkeeping.py."""

import multiprocessing
import sys
from typing import Any

from contenders.base import Contender, Function, Task
from plain_bookkeeping import PlainBookkeeping, PlainTaskPool


class PlainPool(Contender):
    name = "plain_taskpool"

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._processes = multiprocessing.get_context(context).Pool(processes)
        self._pool = PlainTaskPool(in_flight or sys.maxsize, self._processes)

    def submit(self, task: Task) -> None:
        function, args, callback, errback = task
        self._pool.apply_async(
            function, args, callbacks=[callback], errbacks=[errback] if errback else None
        )

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._pool.apply_async(function, args).get()

    def close(self) -> None:
        self._processes.terminate()
        self._processes.join()

    def bookkeeping(self, limit: int) -> PlainBookkeeping:
        return PlainBookkeeping(limit)


CONTENDER = PlainPool
