"""How much memory the segments of a pool take."""

from __future__ import annotations

import os
from pathlib import Path

from celery_pool import TaskPool
from guards import wait_until
from support import DEADLINE

#: What the control words and rings take, and no payload.
AT_REST = 2 << 20

#: What a pool shows to onlookers in its segment, when a few workers have run a few functions.
SHOWN = 64 << 10


def bytes_of(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def argument_bytes(pool: TaskPool) -> int:
    return bytes_of(pool._core.segment_fd)


def result_bytes(pool: TaskPool) -> int:
    return sum(bytes_of(channel.segment_fd) for channel in pool._core.channels)


def payload_bytes(pool: TaskPool) -> int:
    """Pages of the pool's segments, in both directions."""
    return argument_bytes(pool) + result_bytes(pool)


def await_given_back(pool: TaskPool, most: int = AT_REST) -> None:
    """Until no payload takes memory any more; what is kept goes after two seconds."""
    wait_until(
        lambda: payload_bytes(pool) <= most,
        DEADLINE,
        f"at most {most} bytes in segments",
    )


def unique_bytes(pids: list[int]) -> int:
    """Pages that processes have between them, each counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable in /proc/meminfo")
