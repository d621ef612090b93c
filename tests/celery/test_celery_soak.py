"""A short soak; `make soak-celery` has the long one."""

from __future__ import annotations

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder

import soak_celery

from redis_journal import Event, Gone

LOST = "lost on the way to the worker: cut"
OVERWRITTEN = "its result overwritten by Celery: RETRY"


@pytest.mark.parametrize(
    "kind, events, gone, fate",
    [
        # handed over at 12, the next message not before 30
        ("value", ["sent", "handed over"], (12, 30), LOST),
        ("value", ["sent", "handed over"], (12, 15), None),  # kombu had it, and asked for more
        ("value", ["sent", "handed over"], (40, 50), None),  # nothing was cut
        ("value", ["sent", "handed over", "noted", "acknowledged"], None, None),
        ("value", ["sent", "handed over", "noted", "acknowledged"], (11, 30), None),
        ("retry", ["RETRY", "SUCCESS", "RETRY"], None, OVERWRITTEN),
        ("value", ["SUCCESS", "RETRY"], None, None),
        ("retry", ["sent", "RETRY"], None, None),
    ],
)
def test_whose_doing_it_is(kind, events, gone, fate) -> None:
    """That a task has no result."""
    first = gone[0] + 1 - len(events) if gone and events[-1] == "handed over" else 10
    story = [Event(first + n, what, "") for n, what in enumerate(events)]
    cuts = [soak_celery.Cut("cut", 20, 25)]
    lost = Gone("1", *gone) if gone else None
    assert soak_celery.fate_of(kind, story, lost, cuts) == fate


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_task_is_accounted_for(redis_site) -> None:
    options = soak_celery.arguments(["--seconds", "20"])
    summary = soak_celery.soaked(options)
    assert summary["problems"] == [], summary
    assert summary["tasks"] > 50, summary
    assert summary["disturbances"], summary
