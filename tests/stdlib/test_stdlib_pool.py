"""The standard library's own tests of multiprocessing.Pool, with our Pool in its place.

They come from the running interpreter's `test` package. What is not run, and why, is
said in docs/compatibility.md as well.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import multiprocessing.util
import re
import unittest
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_pool import Pool
from conftest import START_METHODS
from guards import Belongings, leftovers
from pool_adapter import AdaptedPool, instead_of_multiprocessing

script_helper = pytest.importorskip(
    "test.support.script_helper",
    reason="this interpreter has no `test` package",
    exc_type=ImportError,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the package's own import says
    theirs = importlib.import_module("test._test_multiprocessing")

#: Names of tests that are not run; each with its reason.
NOT_RUN: dict[str, str] = {}

CLASSES = ("_TestPool", "_TestPoolWorkerErrors", "_TestPoolWorkerLifetime")
#: The start method that is not marked slow: the tests mostly sleep.
QUICK = "fork"


class Adapted:
    """Around a whole class: the start method, our Pool, and what is left behind."""

    method: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.addClassCleanup(check_left, Belongings.now())
        before = multiprocessing.get_start_method(allow_none=True)
        cls.addClassCleanup(multiprocessing.set_start_method, before, force=True)
        multiprocessing.set_start_method(cls.method, force=True)
        cls.enterClassContext(instead_of_multiprocessing(script_helper))
        super().setUpClass()


def check_left(before: Belongings) -> None:
    left = leftovers(before)
    assert not left, left


def adapted(base: type, method: str) -> type:
    namespace: dict[str, Any] = {
        "method": method,
        "Pool": AdaptedPool,
        "pytestmark": [] if method == QUICK else [pytest.mark.slow],
        "__module__": __name__,
    }
    for name in NOT_RUN:
        test = name.rpartition(".")[2]
        if hasattr(base, test):
            namespace[test] = unittest.skip(NOT_RUN[name])(getattr(base, test))
    name = f"{base.__name__.removeprefix('_')}_{method}"
    return type(
        name,
        (Adapted, base, theirs.ProcessesMixin, unittest.TestCase),
        namespace,
    )


for _method in START_METHODS:
    for _name in CLASSES:
        _case = adapted(getattr(theirs, _name), _method)
        globals()[_case.__name__] = _case
del _case
