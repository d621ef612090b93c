"""multiprocessing.Pool.apply_async."""

import multiprocessing
from typing import Any

from contenders.base import Callback, Function, PoolLike


class MultiprocessingPool(PoolLike):
    name = "multiprocessing"

    def _open(self, processes: int, context: str) -> None:
        self._pool = multiprocessing.get_context(context).Pool(
            processes, maxtasksperchild=self.recycle or None
        )

    def submit_many(
        self, function: Function, args: tuple[Any, ...], callback: Callback, count: int
    ) -> None:
        if self._slots is not None:
            super().submit_many(function, args, callback, count)
            return
        apply_async = self._pool.apply_async
        for _ in range(count):
            apply_async(function, args, callback=callback)


CONTENDER = MultiprocessingPool
