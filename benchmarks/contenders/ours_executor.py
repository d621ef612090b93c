"""celery_pool.TaskPoolExecutor."""

from celery_pool import TaskPoolExecutor
from contenders.base import ExecutorLike


class CeleryPoolExecutor(ExecutorLike):
    name = "celery_pool.TaskPoolExecutor"
    distribution = "celery-pool"
    imported = "from celery_pool import TaskPoolExecutor"
    survives_kill = True

    def _open(self, processes: int, context: str) -> None:
        self._executor = TaskPoolExecutor(processes, mp_context=context)


CONTENDER = CeleryPoolExecutor
