"""celery_pool.Pool."""

from celery_pool import Pool
from contenders.base import PoolLike


class CeleryPoolPool(PoolLike):
    name = "celery_pool.Pool"
    distribution = "celery-pool"
    imported = "from celery_pool import Pool"
    survives_kill = True
    recycles = True

    def _open(self, processes: int, context: str) -> None:
        self._pool = Pool(processes, context=context, maxtasksperchild=self.recycle or None)


CONTENDER = CeleryPoolPool
