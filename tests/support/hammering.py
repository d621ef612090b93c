"""Fights for the locks of logging, of imports and of malloc: in threads of the parent, and in
the workers that are started meanwhile."""

from __future__ import annotations

import importlib
import logging
import os
import sys


def log(logger: logging.Logger) -> None:
    logger.warning("some text")


def load(names: list[str]) -> None:
    for name in names:
        sys.modules.pop(name, None)
        importlib.import_module(name)


def allocate() -> None:
    for size in (100, 5000, 300_000):
        bytearray(size)
    b"".join(bytes(n) for n in range(0, 3000, 100))


def everything(names: list[str]) -> int:
    """In the worker."""
    logger = logging.getLogger("hammered")
    if not logger.handlers:  # inherited under fork
        logger.addHandler(logging.NullHandler())
    log(logger)
    load(names)
    allocate()
    return os.getpid()
