"""mpire.WorkerPool.apply_async."""

from mpire.pool import WorkerPool

from contenders.base import PoolLike


class MpirePool(PoolLike):
    name = "mpire"
    distribution = "mpire"
    draws = False  # its imap_unordered is one of its own

    def _open(self, processes: int, context: str) -> None:
        self._pool = WorkerPool(n_jobs=processes, start_method=context)

    def close(self) -> None:
        self._pool.stop_and_join()


CONTENDER = MpirePool
