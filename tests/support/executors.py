"""What tests of executors share."""

from __future__ import annotations

import pytest

from celery_pool import (
    TaskPoolExecutor,
)


@pytest.fixture
def executor(request):
    """Makes executors of the test's start method, and shuts them down by force."""
    names = request.fixturenames
    method = request.getfixturevalue("start_method") if "start_method" in names else "fork"
    made = []

    def make(max_workers=2, **options):
        options.setdefault("mp_context", method)
        made.append(TaskPoolExecutor(max_workers, **options))
        return made[-1]

    yield make
    while made:
        one = made.pop()
        one.kill_workers()
        one.shutdown()


def pids_of(executor):
    return executor._life.pool.get_worker_pids()
