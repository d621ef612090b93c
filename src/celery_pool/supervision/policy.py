"""How the workers of a pool are kept, in words that all who keep them share."""

from __future__ import annotations

import enum
from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    #: Why a task or the pool ends: the exception's class, and its arguments by name.
    Reason = tuple[type[BaseException], dict[str, Any]]
else:
    Reason = tuple


#: How long a dead worker's exit code is waited for, in seconds.
EXIT_CODE_WAIT = 0.5
#: How long callbacks may still run after the end of the workers, in seconds.
REAPER_GRACE = 5.0


class Phase(enum.Enum):
    RUNNING = enum.auto()
    STOPPING = enum.auto()  # workers leave after what they have
    KILLING = enum.auto()  # workers are killed, what is in flight fails
    ENDED = enum.auto()


class Policy(SimpleNamespace):
    """How workers are kept; seconds and KiB."""

    start_timeout: float
    max_tasks: int | None
    max_memory: int | None
    memory_kill: int | None
    soft_signal: int
    kill_grace: float
    hard_grace: float
    leave_timeout: float
    max_restarts: int
    restart_window: float
    start_retries: int | None
    on_start: Callable[[], object] | None
    on_broken: Callable[[BaseException], object] | None
    on_soft_timeout: Callable[[Hashable], object] | None
    on_timeout: Callable[[Hashable], object] | None
    lost_breaks_pool: bool  # the first worker that dies unasked ends it all

    @property
    def recycles(self) -> bool:
        return self.max_tasks is not None or self.max_memory is not None
