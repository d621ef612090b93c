"""billiard.Pool."""

import billiard

from contenders.base import PoolLike


class BilliardPool(PoolLike):
    name = "billiard"
    distribution = "billiard"
    recycles = True

    def _open(self, processes: int, context: str) -> None:
        self._pool = billiard.get_context(context).Pool(
            processes, maxtasksperchild=self.recycle or None
        )


CONTENDER = BilliardPool
