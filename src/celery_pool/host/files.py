"""Small files of the system, read without what `open` makes for them; and descriptors."""

from __future__ import annotations

import contextlib
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


def close_fds(owner: object, *names: str) -> None:
    """Closes the descriptors that these attributes hold; they are -1 afterwards, as one is that
    is not open."""
    for name in names:
        fd = getattr(owner, name)
        setattr(owner, name, -1)
        if fd >= 0:
            with contextlib.suppress(OSError):  # somebody else has closed it
                os.close(fd)
