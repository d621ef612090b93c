"""What other processes do with signals."""

from __future__ import annotations

from .files import read


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for the signal; where that cannot be known: yes."""
    return _in(masks(f"/proc/{pid}/status").get("SigCgt"), signum)


def has_default_action(pid: int, signum: int) -> bool:
    """Whether it neither catches nor ignores the signal; where that cannot be known: no."""
    found = masks(f"/proc/{pid}/status")
    return not _in(found.get("SigCgt"), signum) and not _in(found.get("SigIgn"), signum)


def masks(status: str) -> dict[str, int]:
    """The signals of a process or a thread, by the names of its `status` file, "SigBlk" say;
    empty where they cannot be known."""
    try:
        lines = read(status).splitlines()
        return {
            name: int(mask, 16)
            for name, _, mask in (line.partition(":") for line in lines)
            if name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
        }
    except (OSError, ValueError):
        return {}


def _in(mask: int | None, signum: int) -> bool:
    return mask is None or bool(mask >> (signum - 1) & 1)
