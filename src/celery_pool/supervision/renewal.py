"""A rolling restart: workers of a fresh template take the place of those there are."""

from __future__ import annotations

from .. import _poolcore
from .roster import Roster


class Renewal:
    """Of one run of a pool; used by the supervisor's thread alone."""

    def __init__(self, core: _poolcore.Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster

    def go_on(self) -> bool:
        """Lets go of some that an older template has forked: as many as may have successors
        that start meanwhile. Whether it has."""
        roster = self._roster
        roster.adopt()
        old = [w for w in roster if w.outdated and w.stays() and not w.dead]
        if not old:
            return False
        starting = sum(not w.ready and not w.outdated for w in roster)
        old.sort(key=lambda worker: (worker.ready, worker.channel.load))
        leaving = old[: max(0, roster.spares() - starting)]
        for worker in leaving:
            worker.why = "renewed"
            self._core.retire(worker.channel)
        return bool(leaving)
