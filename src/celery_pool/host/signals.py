"""What other processes do with signals."""

from __future__ import annotations


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for the signal; where that cannot be known: yes."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    except (OSError, ValueError):
        pass
    return True
