"""A short soak; `make soak-celery` has the long one."""

from __future__ import annotations

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder

import soak_celery


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_task_is_accounted_for(redis_site) -> None:
    options = soak_celery.arguments(["--seconds", "20"])
    summary = soak_celery.soaked(options)
    assert summary["problems"] == [], summary
    assert summary["tasks"] > 50, summary
    assert summary["disturbances"], summary
