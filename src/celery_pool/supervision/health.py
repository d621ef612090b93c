"""Why a pool may not do what it is for."""

from __future__ import annotations

import time

from .restarts import Restarts
from .roster import Roster


def complaints(supervised: bool, restarts: Restarts, roster: Roster) -> list[str]:
    """A sentence each. In any thread.

    :param supervised: somebody looks after the workers.
    """
    found = []
    if not supervised:
        found.append("the pool's supervisor is gone")
    outage = restarts.outage  # replaced, when it is over
    if outage.length:
        lasts = time.monotonic() - outage.since
        found.append(f"no worker could be started for {lasts:.0f} s, in {outage.length} tries")
    ready = roster.ready()
    if ready < roster.processes:
        found.append(f"{ready} of {roster.processes} workers can take tasks")
    return found
