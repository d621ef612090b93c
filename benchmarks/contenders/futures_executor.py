"""concurrent.futures.ProcessPoolExecutor."""

import contextlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from contenders.base import ExecutorLike


class FuturesExecutor(ExecutorLike):
    name = "concurrent.futures"
    imported = "from concurrent.futures import ProcessPoolExecutor"

    def _open(self, processes: int, context: str) -> None:
        self._executor = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context(context)
        )

    def facade(
        self, interface: str, processes: int, context: str
    ) -> contextlib.AbstractContextManager[Any]:
        if interface == "executor":
            return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context(context))
        return super().facade(interface, processes, context)


CONTENDER = FuturesExecutor
