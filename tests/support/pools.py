"""What tests of drop-in pools share."""

from __future__ import annotations

import pytest

from celery_pool import (
    Pool,
)


@pytest.fixture
def mp_pool(request):
    """Makes pools, `mp_pool(processes, **options)`, and terminates them after the test."""
    names = request.fixturenames
    method = request.getfixturevalue("start_method") if "start_method" in names else "fork"
    made = []

    def make(processes=2, **options):
        options.setdefault("context", method)
        made.append(Pool(processes, **options))
        return made[-1]

    yield make
    while made:
        pool = made.pop()
        pool.terminate()
        pool.join()


def pids_of(pool):
    return pool._tasks.get_worker_pids()
