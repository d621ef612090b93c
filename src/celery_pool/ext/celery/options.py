"""What a Celery application may say about its pool beyond Celery's own settings."""

from __future__ import annotations

from typing import Any

from celery.exceptions import ImproperlyConfigured

#: Of :class:`celery_pool.TaskPool`, and what they are here unless the application says otherwise.
DEFAULTS: dict[str, Any] = {
    "kill_grace": 5.0,  # tasks that are revoked clean up
    "hard_grace": 0.1,  # as billiard has it
    "start_timeout": 300.0,  # billiard sets the first processes no limit
}

FURTHER = {
    "blas_threads",
    "context",
    "copy",
    "kill_group",
    "leave_timeout",
    "max_restarts",
    "memory_kill",
    "reseed",
    "restart_window",
    "segment_threshold",
    "shield",
    "soft_limit_repeat",
    "spin",
    "start_retries",
}


def pool_options(app: Any, *, forking: bool) -> dict[str, Any]:
    """The options of the application's pool.

    :param app: its ``conf.celery_pool`` is a dict of them, if there is one.
    :param forking: what ``worker_pool_start_method`` says: fork, or else spawn.
    :raises ImproperlyConfigured: one of them is none, or none of the application's.
    """
    given = (app.conf.get("celery_pool") if app is not None else None) or {}
    if not isinstance(given, dict):
        raise ImproperlyConfigured(
            f"celery_pool has to be a dict of options, not {type(given).__name__}"
        )
    options = {"context": "fork" if forking else "spawn", **DEFAULTS, **given}
    known = {*DEFAULTS, *FURTHER}
    for name in given:
        if name not in known:
            raise ImproperlyConfigured(
                f"celery_pool has no option {name!r}; there are {', '.join(sorted(known))}"
            )
    if options["context"] not in ("fork", "spawn", "forkserver"):
        raise ImproperlyConfigured(
            f"celery_pool: context={options['context']!r} is not 'fork', 'spawn' or 'forkserver'"
        )
    return options
