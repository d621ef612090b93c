"""Which targets travel by name."""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_GLOBAL_BY_NAME = {
    "PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "MEMOIZE", "STACK_GLOBAL", "GLOBAL", "STOP",
}  # fmt: skip


def pickled_global(target: Callable[..., Any], dumps: Callable[..., bytes]) -> bytes | None:
    """The pickle of `target` if it is a bare global, that is, nothing but a module
    and a qualified name; None if it carries anything else (a registered reducer, or
    another pickler's `dumps`, may pickle functions by value). Raises what pickling raises."""
    pickled = dumps(target, 5)
    import pickletools

    try:
        opcodes = {opcode.name for opcode, _, _ in pickletools.genops(pickled)}
    except ValueError:  # another pickler's own format
        return None
    return pickled if opcodes <= _GLOBAL_BY_NAME else None
