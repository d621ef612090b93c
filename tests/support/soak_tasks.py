"""What the workers of the soak run. Each body first leaves a mark: one byte a task in a file
that all processes have mapped."""

from __future__ import annotations

import functools
import mmap
import os
import time
from typing import Any

PATTERN = bytes(range(251)) * 84_000  # over 20 MB


@functools.cache
def marks_of(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


def run(path: str, number: int, kind: str, size: int, data: bytes = b"") -> Any:
    marks = marks_of(path)
    marks[number] = min(marks[number] + 1, 255)
    if kind == "error":
        raise ValueError(number)
    if kind == "sleep":
        time.sleep(size / 1e6)
    elif kind == "work":
        end = time.perf_counter() + size / 1e6
        while time.perf_counter() < end:
            pass
    elif kind == "exit":
        os._exit(size)
    elif kind == "child":
        if os.fork() == 0:
            time.sleep(size / 1e6)
            os._exit(0)
    elif kind == "take":
        assert data == PATTERN[:size], "the argument has been damaged"
    elif kind == "give":
        return number, PATTERN[:size]
    return number, b""
