"""What the workers run. A module of its own, so that every start method can import it by name."""

import functools
import itertools
import time
from typing import Any, NamedTuple


def noop(*args: Any) -> None:
    """Nothing: all that is left is the pool's own cost."""


def echo(value: Any) -> Any:
    """Sends its argument back."""
    return value


def size_of(data: Any) -> int:
    """Takes a payload and answers with a number: payload to the worker only."""
    return len(data)


@functools.lru_cache(maxsize=1)
def make_payload(size: int, kind: str) -> Any:
    """Builds `size` bytes, once in a worker: payload back only."""
    if kind == "ndarray":
        import numpy

        return numpy.arange(size // 8, dtype=numpy.float64)
    return bytes(size)


def burn(iterations: int) -> int:
    """A fixed amount of work: unlike a wait by the clock it takes longer on a shared core."""
    total = 0
    for number in range(iterations):
        total += number & 7
    return total


def spin(seconds: float) -> None:
    """Uses its core for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def nap(seconds: float) -> None:
    """Holds a worker without using its core."""
    time.sleep(seconds)


class Item(NamedTuple):
    """What `take_item` is to do, and when it was drawn from its iterable."""

    seconds: float
    drawn: float
    long: bool


def take_item(item: Item) -> Item:
    """Holds a worker if it is long, else uses its core."""
    (nap if item.long else spin)(item.seconds)
    return item


_calls = itertools.count(1)


def in_bursts() -> None:
    """Does nothing, but sleeps for 8 ms every 128th time: results come in bursts."""
    if next(_calls) % 128 == 0:
        time.sleep(0.008)
