"""pebble.ProcessPool."""

import multiprocessing
from typing import Any

import pebble

from contenders.base import Callback, ExecutorLike, Function


class PebblePool(ExecutorLike):
    name = "pebble"
    distribution = "Pebble"
    survives_kill = True

    def _open(self, processes: int, context: str) -> None:
        self._executor = pebble.ProcessPool(processes, context=multiprocessing.get_context(context))

    def _send(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None,
    ) -> None:
        self._executor.schedule(function, args=args).add_done_callback(callback)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._executor.schedule(function, args=args).result()

    def close(self) -> None:
        self._executor.stop()
        self._executor.join()


CONTENDER = PebblePool
