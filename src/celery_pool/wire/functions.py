"""Which targets travel by name, and how a task of many calls is carried out."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable

from ..errors import SoftTimeLimitExceeded
from .remote import Raised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Opcodes of a bare global, and their lengths; of texts, of what comes before the text.
_LENGTHS = {
    opcode[0]: length
    for opcode, length in (
        (pickle.PROTO, 2),
        (pickle.FRAME, 9),
        (pickle.SHORT_BINUNICODE, 2),
        (pickle.BINUNICODE, 5),
        (pickle.MEMOIZE, 1),
        (pickle.STACK_GLOBAL, 1),
        (pickle.STOP, 1),
    )
}
_TEXTS = (pickle.SHORT_BINUNICODE[0], pickle.BINUNICODE[0])


def pickled_global(target: Callable[..., Any], dumps: Callable[..., bytes]) -> bytes | None:
    """The pickle of `target` if it is a bare global, that is, nothing but a module
    and a qualified name; None if it carries anything else (a registered reducer, or
    another pickler's `dumps`, may pickle functions by value). Raises what pickling raises."""
    pickled = dumps(target, 5)
    at = 0
    while at < len(pickled):  # pickletools would do, but its import costs more than a pool's start
        opcode = pickled[at]
        length = _LENGTHS.get(opcode)
        if length is None:  # or another pickler's own format
            return None
        if opcode in _TEXTS:
            length += int.from_bytes(pickled[at + 1 : at + length], "little")
        at += length
    return pickled if at == len(pickled) and pickled.endswith(pickle.STOP) else None


def map_all(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """In the worker. No map(): a StopIteration of the function would end it early."""
    return [function(item) for item in items]


def starmap_all(function: Callable[..., Any], items: Iterable[Iterable[Any]]) -> list[Any]:
    """In the worker."""
    return [function(*item) for item in items]


def starmap_each(function: Callable[..., Any], items: Iterable[Iterable[Any]]) -> list[Any]:
    """In the worker: a call that raises does not keep the others from theirs."""
    outcomes: list[Any] = []
    for item in items:
        try:
            outcomes.append(function(*item))
        except SoftTimeLimitExceeded:  # of all of them
            raise
        except Exception as error:
            outcomes.append(Raised(error))
    return outcomes
