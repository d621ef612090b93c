"""What the system says about memory: of a worker, and of kills for want of it."""

from __future__ import annotations

import os

from .files import read

_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


def anonymous_kib(pid: int) -> int | None:
    """KiB of resident memory that the process does not share: rings and segments
    do not count. None if the process is gone or the system does not say."""
    try:
        fields = read(f"/proc/{pid}/statm").split()
        return (int(fields[1]) - int(fields[2])) * _PAGE_KIB
    except (OSError, IndexError):
        return None


class OutOfMemoryKills:
    """The kernel's counters of processes killed for want of memory."""

    def __init__(self) -> None:
        self._files = [
            ("/proc/vmstat", "oom_kill"),
            *((f"{path}/memory.events", "oom_kill") for path in _cgroups("", "")),
            *((f"{path}/memory.oom_control", "oom_kill") for path in _cgroups("memory", "memory")),
        ]
        self._seen = 0

    def watch(self) -> None:
        """From now on."""
        self._seen = self._count()

    def increased(self) -> bool:
        """Whether they have counted anything since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        total = 0
        for path, name in self._files:
            try:
                for line in read(path).splitlines():
                    key, _, value = line.partition(" ")
                    if key == name:
                        total += int(value)
            except (OSError, ValueError):
                continue
        return total


def _cgroups(controller: str, folder: str) -> list[str]:
    """The folder of this process's cgroup for a controller ("": version 2)."""
    try:
        lines = read("/proc/self/cgroup").splitlines()
    except OSError:
        return []
    return [
        os.path.join("/sys/fs/cgroup", folder, path.lstrip("/"))
        for _, names, path in (line.split(":", 2) for line in lines)
        if controller in names.split(",")
    ]
