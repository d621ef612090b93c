"""A plugin for Celery's own tests: with the pool that CELERY_SUITE_POOL names in prefork's place.

Each line of the file CELERY_SUITE_OUTCOMES is a JSON list: a test's name and how it ended (the
last counts: some are run again), or "pool" and the class of the session worker's pool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest
from celery import concurrency


def pytest_configure() -> None:
    concurrency.ALIASES["prefork"] = os.environ["CELERY_SUITE_POOL"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        tell(report.nodeid, report.outcome)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    value = yield
    if fixturedef.argname == "celery_session_worker":
        pool = type(value.pool)
        tell("pool", f"{pool.__module__}:{pool.__qualname__}")
    return value


def tell(subject: str, what: str) -> None:
    with open(os.environ["CELERY_SUITE_OUTCOMES"], "a") as file:
        print(json.dumps([subject, what]), file=file)
