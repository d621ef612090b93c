"""``multiprocessing.Pool``'s interface over :class:`celery_pool.TaskPool`."""

from .api import Pool

Pool.__module__ = __name__

__all__ = ["Pool"]
