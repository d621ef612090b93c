"""What changes rarely, shown to onlookers as JSON."""

from __future__ import annotations

import os
import time

from .. import _poolcore
from ..host import dumps, starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .log import Log

#: Bytes that the pool's segment has for it.
ROOM = 64 * 1024


class Story:
    """Of one run of a pool. In the supervisor's thread.

    :param exits: ends of workers by reason; somebody else counts.
    """

    def __init__(self, core: _poolcore.Core, name: str, exits: Mapping[str, int], log: Log) -> None:
        self._core = core
        self._name = name
        self._exits = exits
        self._log = log
        self._started = time.time()
        self._told: tuple[int, int] | None = None
        self._answers = False  # who asks for this process's stacks

    def tell(self) -> None:
        """The workers as they are, and the story if there is something new."""
        self._core.show_workers()
        new = sum(self._exits.values()), self._log.said
        if new == self._told:
            return
        if self._told is None:
            self._answers = dumps.offer()
        self._told = new
        with starting.alone():  # tasks of a template that is forked meanwhile may import it, too
            import json  # where there is something to tell, its import is no delay of the start

        recent = list(self._log.recent)
        story = {
            "name": self._name,
            "pid": os.getpid(),
            "started": self._started,
            "exits": dict(self._exits),
            "recent": recent,
        }
        text = json.dumps(story).encode()
        while len(text) > ROOM and recent:
            del recent[0]
            text = json.dumps(story).encode()
        self._core.show_story(text)

    def end(self) -> None:
        """Nothing is told any more; idempotent."""
        answers, self._answers = self._answers, False
        if answers:
            dumps.withdraw()
