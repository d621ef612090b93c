"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os

from .files import read


def usable_cpus(at_most: int | None = None) -> int:
    """CPUs in the affinity mask, or fewer if the cgroup's quota is smaller, or `at_most`."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        count = os.cpu_count() or 1
    quota = cgroup_quota()
    if quota is not None:
        count = max(1, min(count, math.ceil(quota)))
    return min(count, at_most or count)


def cgroup_quota(root: str = "/sys/fs/cgroup", proc: str = "/proc/self/cgroup") -> float | None:
    """The smallest CPU quota of the cgroups that hold this process; None without one."""
    try:
        lines = read(proc).splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, quota_of = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, quota_of = f"{root}/cpu", _quota_v1
        else:
            continue
        levels = [name for name in path.split("/") if name]
        for depth in range(len(levels), -1, -1):
            quota = quota_of("/".join([base, *levels[:depth]]))
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(group: str) -> float | None:
    try:
        limit, period = read(f"{group}/cpu.max").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(group: str) -> float | None:
    try:
        limit = int(read(f"{group}/cpu.cfs_quota_us"))
        period = int(read(f"{group}/cpu.cfs_period_us"))
        return limit / period if limit > 0 else None
    except (OSError, ValueError):
        return None
