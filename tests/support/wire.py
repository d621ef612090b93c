"""What frames hold, for tests that write them as no worker of ours does."""

from __future__ import annotations

import struct


def parcel(
    offset: int, length: int, *, stream: int | None = None, number: int = 0, count: int = 0
) -> bytes:
    """cp_parcel of src/_poolcore/layout.h: a long payload, by default without buffers."""
    return struct.pack(
        "<QQQII", offset, length, length if stream is None else stream, number, count
    )
