"""CPU time and memory that processes use."""

import contextlib
import os
import threading
import time
from pathlib import Path

from guards import descendants

SECONDS = 1.5
SLACK = 0.006  # seconds of CPU time


def cpu_seconds() -> float:
    """Time on a CPU of all threads of this process but the calling one, and of all
    processes below."""
    total = 0
    own = threading.get_native_id()
    for pid in (os.getpid(), *descendants()):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                if int(thread.name) != own:
                    total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def used(seconds: float = SECONDS) -> float:
    before = cpu_seconds()
    time.sleep(seconds)
    return cpu_seconds() - before


def resident_kib():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")
