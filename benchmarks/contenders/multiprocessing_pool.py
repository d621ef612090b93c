"""multiprocessing.Pool.apply_async."""

import contextlib
import multiprocessing
from typing import Any

from contenders.base import PoolLike, Task


class MultiprocessingPool(PoolLike):
    name = "multiprocessing"
    imported = "from multiprocessing.pool import Pool"
    recycles = True

    def _open(self, processes: int, context: str) -> None:
        self._pool = multiprocessing.get_context(context).Pool(
            processes, maxtasksperchild=self.recycle or None
        )

    def facade(
        self, interface: str, processes: int, context: str
    ) -> contextlib.AbstractContextManager[Any]:
        if interface == "pool":
            return multiprocessing.get_context(context).Pool(processes)
        return super().facade(interface, processes, context)

    def submit_many(self, task: Task, count: int) -> None:
        if self._slots is not None:
            super().submit_many(task, count)
            return
        apply_async = self._pool.apply_async
        function, args, callback, _ = task
        for _ in range(count):
            apply_async(function, args, callback=callback)


CONTENDER = MultiprocessingPool
