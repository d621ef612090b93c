"""A worker pool for Celery: ``celery worker`` on this core.

One line of configuration, or an environment variable::

    app.conf.worker_pool = "celery_pool.ext.celery:TaskPool"

    CELERY_CUSTOM_WORKER_POOL=celery_pool.ext.celery:TaskPool celery -A proj worker -P custom

docs/celery.md says what differs from Celery's own.
"""

from __future__ import annotations

import celery

if not celery.__version__.startswith("5.7."):
    # what a pool has to offer is not a documented interface of Celery's
    raise ImportError(
        f"celery_pool.ext.celery is made for Celery 5.7, and this is Celery {celery.__version__}: "
        'install "celery>=5.7,<5.8", or use the pool that comes with it (worker_pool = "prefork")'
    )

from .prefork import TaskPool

__all__ = ["TaskPool"]
