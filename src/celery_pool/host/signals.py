"""What other processes do with signals."""

from __future__ import annotations

from .files import read


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for the signal; where that cannot be known: yes."""
    try:
        for line in read(f"/proc/{pid}/status").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    except (OSError, ValueError):
        pass
    return True
