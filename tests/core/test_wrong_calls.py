"""What people write wrongly is told at the call, and leaves nothing behind."""

from __future__ import annotations

import functools
import queue
from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest

import tasks
from celery_pool import TaskPool
from support import DEADLINE


@pytest.fixture(scope="module")
def pool():
    with TaskPool(4, processes=1) as pool:
        yield pool


@pytest.mark.parametrize("args", [5, "ab", b"ab", bytearray(b"ab"), {"a": 1}, object(), 1.5])
def test_args_that_are_no_tuple_of_arguments(pool, args):
    with pytest.raises(TypeError, match=f"args must be a tuple.* not {type(args).__name__}"):
        pool.apply_async(tasks.same, args)
    assert pool.statistics().in_flight == 0


@pytest.mark.parametrize("args", [[7], iter([7]), {7}, range(7, 8), {7: 1}.keys(), deque([7])])
def test_args_of_any_other_iterable(pool, args):
    assert pool.apply_async(tasks.same, args).get(DEADLINE) == 7


def test_args_whose_iteration_fails(pool):
    with pytest.raises(ZeroDivisionError):
        pool.apply_async(tasks.same, (1 / x for x in (0,)))


def test_what_iter_raises_is_kept(pool):
    class Odd:
        def __iter__(self):
            raise TypeError("odd")

    with pytest.raises(TypeError, match="args must be a tuple") as caught:
        pool.apply_async(tasks.same, Odd())
    assert str(caught.value.__cause__) == "odd"


@pytest.mark.parametrize("kwargs", [5, "ab", (1,), [("value", 7)]])
def test_kwargs_that_are_no_mapping(pool, kwargs):
    with pytest.raises(TypeError, match="kwargs must be a mapping"):
        pool.apply_async(tasks.same, (), kwargs)


# ---- callbacks


class Object:
    def none(self) -> None:
        pass

    def one(self, a: Any) -> None:
        pass

    def two(self, a: Any, b: Any) -> None:
        pass

    @classmethod
    def of_the_class(cls, a: Any) -> None:
        pass

    @staticmethod
    def static(a: Any) -> None:
        pass


class Callable1:
    def __call__(self, a: Any) -> None:
        pass


class Callable2:
    def __call__(self, a: Any, b: Any) -> None:
        pass


class Pair:
    def __init__(self, a: Any, b: Any) -> None:
        pass


class StaticCall:
    @staticmethod
    def __call__(a: Any, b: Any) -> None:
        pass


def keyword_required(a: Any, b: Any, *, c: Any) -> None:
    pass


def keyword_optional(a: Any, b: Any, *, c: Any = 1) -> None:
    pass


def three(a: Any, b: Any, c: Any) -> None:
    pass


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> None:
        pass

    return wrapper


WRONG = [
    lambda: None,
    lambda a: None,
    lambda a, /, *, b=1: None,
    three,
    keyword_required,
    Object().none,
    Object().one,
    Object.two,
    Object.of_the_class,
    Object.static,
    Callable1(),
    [].append,
    [].clear,
    set().add,
    functools.partial(three),
    functools.partial(Object().two, 1),
    functools.partial(functools.partial(three, 1), 2),
    functools.partial([].append),
]
RIGHT = [
    lambda a, b: None,
    lambda *a: None,
    lambda a, *b: None,
    lambda a, b=1: None,
    lambda a=1, b=2, c=3: None,
    keyword_optional,
    Object().two,
    Callable2(),
    StaticCall(),
    Mock(),
    print,
    Pair,
    queue.SimpleQueue().put,
    functools.partial(three, 1),
    functools.partial(three, c=1),
    wrapped(lambda a: None),
]


def words(cases: list[Any]) -> list[str]:
    return [f"{i}-{getattr(c, '__qualname__', type(c).__name__)}" for i, c in enumerate(cases)]


@pytest.mark.parametrize("callback", WRONG, ids=words(WRONG))
@pytest.mark.parametrize("where", ["callbacks", "errbacks"])
def test_a_callback_that_does_not_take_two_arguments(pool, where, callback):
    signature = r"callback\(result, meta\)" if where == "callbacks" else r"errback\(exc, meta\)"
    for given in callback, [callback], (print, callback):
        with pytest.raises(TypeError, match=f"cannot be called as {signature}"):
            pool.apply_async(tasks.same, (1,), **{where: given})
    with pytest.raises(TypeError, match=f"cannot be called as {signature}"):
        pool.add(pool.apply_async(tasks.same, (1,)), **{where: callback})
    assert pool.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("callback", RIGHT, ids=words(RIGHT))
def test_a_callback_that_takes_two_arguments(pool, callback):
    before = pool.statistics().callback_errors
    assert pool.apply_async(tasks.same, ("",), None, callback).get(DEADLINE) == ""
    assert pool.statistics().callback_errors == before


def test_what_else_is_called(pool):
    with pytest.raises(TypeError, match=r"cannot be called as on_acknowledge\(\)"):
        pool.apply_async(tasks.same, (1,), on_acknowledge=lambda a: None)
    with pytest.raises(TypeError, match=r"cannot be called as accept_callback\(pid, time"):
        pool.apply_async(tasks.same, (1,), accept_callback=lambda: None)
    for name in "callbacks", "errbacks", "on_acknowledge", "accept_callback":
        with pytest.raises(TypeError, match="must be callable, not int"):
            pool.apply_async(tasks.same, (1,), **{name: 5})


def test_a_pool_with_an_on_ready_of_its_own_calls_callbacks_as_it_likes():
    class OneArgument(TaskPool):
        def on_ready(self, ret_value, callbacks, errbacks, meta):
            for callback in callbacks:
                callback(ret_value)

    got: list[int] = []
    with OneArgument(1) as pool:
        assert pool.apply_async(tasks.same, (7,), None, [got.append]).get(DEADLINE) == 7
    assert got == [7]
