"""What pickles arguments and results, in the parent and in the workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Pickler(Protocol):
        """The functions of the module pickle that a pool needs; cloudpickle has them, too."""

        @property
        def dumps(self) -> Callable[..., bytes]:
            """``dumps(obj, protocol, buffer_callback=None)``."""
            ...

        @property
        def loads(self) -> Callable[..., Any]:
            """``loads(data, buffers=())``."""
            ...


def checked(pickler: Pickler | None) -> Pickler:
    """`pickler`, or the module pickle. TypeError if it is none."""
    if pickler is None:
        return pickle
    for name in ("dumps", "loads"):
        if not callable(getattr(pickler, name, None)):
            raise TypeError(f"pickler must have the functions dumps and loads, not {pickler!r}")
    return pickler


def to_send(pickler: Pickler) -> Pickler | str:
    """What stands for it in a worker's plan: modules cannot be pickled themselves."""
    return pickler.__name__ if isinstance(pickler, ModuleType) else pickler


def received(sent: Pickler | str) -> Pickler:
    """In the worker: what :func:`to_send` stood for."""
    if not isinstance(sent, str):
        return sent
    if sent == pickle.__name__:
        return pickle
    from importlib import import_module

    return import_module(sent)
