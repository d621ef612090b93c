"""Pieces of an iterable, each of them one task: its items cross the ring once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

#: Tasks that are submitted in one go, before other threads and signals are let in.
AT_ONCE = 256


def chunks(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """Sequences of `size` items; the last one may be shorter. Of size 1: the items themselves.
    Raises what iterating raises."""
    if size == 1:
        return iter(iterable)
    return _chunks(iterable, size)


def _chunks(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    if type(iterable) in (list, tuple, range):  # a slice of a range is pickled as three numbers
        for start in range(0, len(iterable), size):  # type: ignore[arg-type]
            yield iterable[start : start + size]  # type: ignore[index]
        return
    iterator = iter(iterable)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


#: Items from where on more in a chunk save nothing, and only keep workers and parent waiting
#: for each other; so many small objects stay in the processor's cache besides.
LARGEST_BY_DEFAULT = 2048


def default_size(length: int, processes: int, recycled: bool) -> int:
    """About four chunks a worker, but none larger than it is good for.

    :param recycled: workers are replaced after so many chunks: then no more than that.
    """
    size = max(1, -(-length // (4 * processes)))
    return size if recycled else min(size, LARGEST_BY_DEFAULT)
