"""Exceptions and results whose own methods raise: the task fails, nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from celery_pool import ResultDecodingError, ResultEncodingError
from celery_pool.wire.remote import UnpicklableError
from support import DEADLINE

INNER = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit]


class NoText(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class OddError(Exception):
    """One of its methods raises."""

    method, inner = "__reduce__", ValueError

    def _call(self, method: str) -> None:
        if method == self.method:
            raise self.inner

    def __reduce__(self) -> Any:
        self._call("__reduce__")
        return Exception.__reduce__(self)

    def __str__(self) -> str:
        self._call("__str__")
        return "odd"

    def __repr__(self) -> str:
        self._call("__repr__")
        return "odd"


class Recluse(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


def raise_odd(method: str, inner: type[BaseException]) -> None:
    OddError.method, OddError.inner = method, inner
    raise OddError


class OddResult:
    """Does not pickle, by `inner`; what has a repr, by `shown`."""

    def __init__(self, inner: type[BaseException], shown: type[BaseException] | None) -> None:
        self.inner, self.shown = inner, shown

    def __reduce__(self) -> Any:
        raise self.inner

    def __repr__(self) -> str:
        if self.shown is not None:
            raise self.shown
        return "odd"


class Mute:
    """Does not unpickle, by an exception without text."""

    def __reduce__(self) -> Any:
        return raise_no_text, ()


def raise_no_text() -> None:
    raise NoText


class MuteError(Exception):
    """Does not pickle, or does not unpickle, by an exception without text."""

    def __init__(self, how: str) -> None:
        super().__init__(how)

    def __reduce__(self) -> Any:
        if self.args[0] == "pickling":
            raise NoText
        return raise_no_text, ()


def fail_mutely(how: str) -> None:
    raise MuteError(how)


def raise_recluse() -> None:
    raise Recluse


def error_of(pool: Any, target: Any, *args: Any) -> BaseException:
    """What the task fails with. Nobody dies of it."""
    p = pool(1)
    pids = p.get_worker_pids()
    result = p.apply_async(target, args)
    with pytest.raises(BaseException) as caught:
        result.get(DEADLINE)
    assert p.apply_async(abs, (-1,)).get(DEADLINE) == 1
    assert p.get_worker_pids() == pids
    return caught.value.with_traceback(None)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("method", ["__reduce__", "__str__", "__repr__"])
def test_an_exception_with_a_method_that_raises(pool, method, inner):
    error = error_of(pool, raise_odd, method, inner)
    assert type(error) is (UnpicklableError if method == "__reduce__" else OddError)
    assert "raise_odd" in str(error.__cause__)


def test_an_exception_without_attributes(pool):
    assert isinstance(error_of(pool, raise_recluse), UnpicklableError)


@pytest.mark.parametrize("shown", [None, *INNER])
def test_a_result_that_cannot_be_pickled(pool, shown):
    error = error_of(pool, OddResult, ValueError, shown)
    assert type(error) is ResultEncodingError
    assert ("odd" if shown is None else "unprintable") in str(error)


@pytest.mark.parametrize("inner", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_result_whose_pickling_exits(pool, inner):
    assert type(error_of(pool, OddResult, inner, None)) is inner


def test_a_result_whose_pickling_error_has_no_text(pool):
    assert type(error_of(pool, OddResult, NoText, None)) is ResultEncodingError


def test_a_result_that_does_not_unpickle_and_does_not_say_why(pool):
    error = error_of(pool, Mute)
    assert type(error) is ResultDecodingError
    assert "NoText" in str(error)


@pytest.mark.parametrize("how", ["pickling", "unpickling"])
def test_an_exception_that_does_not_arrive_and_does_not_say_why(pool, how):
    error = error_of(pool, fail_mutely, how)
    assert type(error) is UnpicklableError
    assert "NoText" in str(error)
