"""Small files of the system, read without what `open` makes for them."""

from __future__ import annotations

import os


def read(path: str) -> str:
    """The whole file. OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 1 << 14):
            parts.append(part)
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(parts))
