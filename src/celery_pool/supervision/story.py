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
        self._exits = exits
        self._log = log
        #: JSON without its end, by hand: while nothing has happened, nobody pays json's import.
        self._beginning = f'{{"name": "{name}", "pid": {os.getpid()}, "started": {time.time()}'
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
        happened = self._happened() if any(new) else ""
        self._core.show_story(f"{self._beginning}{happened}}}".encode())

    def _happened(self) -> str:
        """As far as there is room: of what was said the last."""
        with starting.alone():  # tasks of a template that is forked meanwhile may import it, too
            import json

        recent = list(self._log.recent)
        while True:
            text = f', "exits": {json.dumps(self._exits)}, "recent": {json.dumps(recent)}'
            if len(self._beginning) + len(text) < ROOM or not recent:
                return text
            del recent[0]

    def end(self) -> None:
        """Nothing is told any more; idempotent."""
        answers, self._answers = self._answers, False
        if answers:
            dumps.withdraw()
