"""Which targets travel by name."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from typing import Any

_GLOBAL_BY_NAME = {
    "PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "MEMOIZE", "STACK_GLOBAL", "GLOBAL", "STOP",
}  # fmt: skip


def pickled_global(target: Callable[..., Any]) -> bytes | None:
    """The pickle of `target` if it is a bare global, that is, nothing but a module
    and a qualified name; None if it carries anything else (a registered reducer
    may pickle functions by value). Raises what pickling raises."""
    pickled = pickle.dumps(target, 5)
    if {opcode.name for opcode, _, _ in pickletools.genops(pickled)} <= _GLOBAL_BY_NAME:
        return pickled
    return None
