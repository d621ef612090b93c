"""concurrent.futures' interface over :class:`celery_pool.TaskPool`."""

from .api import TaskPoolExecutor
from .futures import TaskFuture

TaskPoolExecutor.__module__ = TaskFuture.__module__ = __name__

__all__ = ["TaskFuture", "TaskPoolExecutor"]
