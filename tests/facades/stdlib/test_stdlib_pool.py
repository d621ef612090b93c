"""The standard library's own tests of multiprocessing.Pool, with our Pool in its place.

They come from the running interpreter's `test` package. Most of their time they sleep,
so all start methods but one are marked slow.
"""

from __future__ import annotations

import multiprocessing
import re
import unittest
import warnings
from pathlib import Path
from typing import Any

import pytest

from guards import Belongings, leftovers
from pool_adapter import AdaptedPool, instead_of_multiprocessing
from support import START_METHODS

WITHOUT = "this Python comes without its tests (Debian: libpython3-testsuite)"
script_helper = pytest.importorskip(
    "test.support.script_helper", reason=WITHOUT, exc_type=ImportError
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    theirs = pytest.importorskip("test._test_multiprocessing", reason=WITHOUT, exc_type=ImportError)

#: Run whole, or only the tests that have to do with Pool.
CLASSES: dict[str, list[str] | None] = {
    "_TestPool": None,
    "_TestPoolWorkerErrors": None,
    "_TestPoolWorkerLifetime": None,
    "TestInitializers": ["test_pool_initializer"],
}

#: Tests of Pool that are not run. docs/compatibility.md gives the reasons.
NOT_RUN = {
    "TestPoolNotLeakOnFailure.test_release_unused_processes",
    "TestStdinBadfiledescriptor.test_pool_in_process",
    "MiscTestCase.test_large_pool",
    "TestSyncManagerTypes.test_pool",
}

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

    def tearDown(self) -> None:
        super().tearDown()
        for held in ("ns", "mgr"):  # a proxy has a connection as long as it lives
            self.__dict__.pop(held, None)


def check_left(before: Belongings) -> None:
    left = leftovers(before)
    assert not left, left


def adapted(base: type, only: list[str] | None, method: str) -> type:
    name = f"{base.__name__.removeprefix('_')}_{method}"
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "method": method,
        "Pool": AdaptedPool,
        "pytestmark": [] if method == QUICK else [pytest.mark.slow],
    }
    if only is not None:
        namespace |= {n: None for n in dir(base) if n.startswith("test_") and n not in only}
    bases = (Adapted, base)
    if not issubclass(base, unittest.TestCase):
        bases += (theirs.ProcessesMixin, unittest.TestCase)
    return type(name, bases, namespace)


for _method in START_METHODS:
    for _name, _only in CLASSES.items():
        _case = adapted(getattr(theirs, _name), _only, _method)
        globals()[_case.__name__] = _case
del _case


def run_here() -> set[str]:
    """The names of the tests that are run, as Class.test."""
    return {
        f"{name}.{test}"
        for name, only in CLASSES.items()
        for test in (dir(getattr(theirs, name)) if only is None else only)
        if re.match(r"test_", test)
    }


def about_pools() -> set[str]:
    """All tests that have something like Pool in their names, but not Poll."""
    return {
        f"{name}.{test}"
        for name, value in vars(theirs).items()
        if isinstance(value, type) and re.match("_?Test|MiscTest", name)
        for test in dir(value)
        if test.startswith("test_") and ("Pool" in name or re.search("pool", test))
    }


def test_no_test_of_pools_is_left_out_unsaid() -> None:
    assert about_pools() - run_here() - NOT_RUN == set()
    assert not run_here() & NOT_RUN


def test_the_docs_say_what_is_not_run() -> None:
    docs = Path(__file__).parents[3] / "docs" / "compatibility.md"
    section = re.search(
        r"^## multiprocessing\.Pool\n(.*?)(?=^## |\Z)", docs.read_text(), re.M | re.S
    )
    assert section is not None
    rows = re.findall(r"^\| `(\w+\.test_\w+)` \| (.+) \|$", section[1], re.M)
    assert {name for name, _ in rows} == NOT_RUN
    assert all(reason.strip() for _, reason in rows)


def test_ours_stands_in_the_place_of_theirs() -> None:
    with instead_of_multiprocessing(script_helper):
        assert theirs.multiprocessing.Pool is AdaptedPool
