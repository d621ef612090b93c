"""loky.ProcessPoolExecutor; it advises against fork, so its own start method stands in."""

import loky
from loky.backend import get_context

from contenders.base import ExecutorLike


class LokyExecutor(ExecutorLike):
    name = "loky"
    distribution = "loky"

    def _open(self, processes: int, context: str) -> None:
        self._executor = loky.ProcessPoolExecutor(
            processes, context=get_context("loky" if context == "fork" else context)
        )

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)


CONTENDER = LokyExecutor
