"""concurrent.futures.ProcessPoolExecutor."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from contenders.base import ExecutorLike


class FuturesExecutor(ExecutorLike):
    name = "concurrent.futures"
    imported = "from concurrent.futures import ProcessPoolExecutor"

    def _open(self, processes: int, context: str) -> None:
        self._executor = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context(context)
        )


CONTENDER = FuturesExecutor
