"""The pool class that the worker knows.

It is the one of Celery's prefork with other processes: what the command line, `inspect stats`,
autoscaling and Django's fixup know of that holds here as well. Three places of Celery go by the
last part of its module's name, which is why this module has it.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import prefork

from .adapter import BlockingPool, EventLoopPool
from .options import pool_options


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's worker pool on :class:`celery_pool.TaskPool`.

    Processes, limits and recycling are configured as prefork's are. ``app.conf.celery_pool`` may
    hold further options of :class:`celery_pool.TaskPool`, in a dict; docs/celery.md has a list.
    """

    Pool = EventLoopPool
    BlockingPool = BlockingPool
    forking_enable: bool

    def on_start(self) -> None:
        options: dict[str, Any] = pool_options(self.app, forking=self.forking_enable)
        self.forking_enable = options["context"] == "fork"
        self.options.update(pool_options=options, putlocks=self.putlocks)
        super().on_start()

    def restart(self) -> None:
        self._pool.restart()
