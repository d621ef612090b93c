"""Calls made from an iterable, one or several items a task.

A chunk is one task: its items cross the ring once. A chunk of one item is the plain
call, so that the worker finds the function by its id.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Call = tuple[Callable[..., Any], Iterable[Any]]


def map_chunk(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """In the worker. No map(): a StopIteration of the function would end it early."""
    return [function(item) for item in items]


def starmap_chunk(function: Callable[..., Any], items: Iterable[Iterable[Any]]) -> list[Any]:
    """In the worker."""
    return [function(*item) for item in items]


def calls(
    function: Callable[..., Any], iterable: Iterable[Any], size: int, star: bool
) -> Iterator[Call]:
    """(target, args) for each chunk of `size` items; raises what iterating raises.

    :param star: the items are the arguments themselves, not one argument each.
    """
    if size > 1:
        target = starmap_chunk if star else map_chunk
        for chunk in chunks(iterable, size):
            yield target, (function, chunk)
    elif star:
        for item in iterable:
            yield function, item if type(item) is tuple else _unpacked(item)
    else:
        for item in iterable:
            yield function, (item,)


def _unpacked(item: Any) -> Any:
    """What a starmap takes as arguments, and a call of its own would refuse."""
    return tuple(item) if isinstance(item, (str, bytes, bytearray, dict)) else item


def chunks(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """Sequences of `size` items; the last one may be shorter."""
    if type(iterable) in (list, tuple, range):  # a slice of a range is pickled as three numbers
        for start in range(0, len(iterable), size):  # type: ignore[arg-type]
            yield iterable[start : start + size]  # type: ignore[index]
        return
    iterator = iter(iterable)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield chunk


def checked_size(size: Any) -> int:
    """`chunksize` as the caller gave it. ValueError if it is less than 1."""
    size = operator.index(size)
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size}")
    return int(size)


def default_size(length: int, processes: int) -> int:
    """About four chunks a worker."""
    return max(1, -(-length // (4 * processes)))
