"""What a forked child must not take over of loky, as it stands alone or in joblib."""

from __future__ import annotations

import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: The program's executors. They are never collected: their end would tell the program's threads.
_inherited: list[Any] = []


def forget_executor() -> None:
    """loky keeps one executor for all who ask. A fork has it without its threads, and a task
    that used it would wait for ever."""
    for name in "loky.reusable_executor", "joblib.externals.loky.reusable_executor":
        loky: Any = sys.modules.get(name)
        if getattr(loky, "_executor", None) is not None:
            _inherited.append(loky._executor)
            loky._executor = loky._executor_kwargs = None
            loky._executor_lock = threading.RLock()
