"""Reads what a pool shows in its shared memory: see src/_poolcore/status.h.

Nothing is asked of the pool, and nothing of what is read is trusted: it works while the pool's
process hangs or is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from .._poolcore import PoolMap, WorkerMap
from .facts import OTHER, FunctionStatistics, Ledger, WorkerInfo
from .histogram import Histogram

#: A worker's tallies may be ahead of what its parent knows by what its rings hold.
AHEAD = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")

Opener = Callable[[int], AbstractContextManager[int]]


class PoolView:
    """One run of a pool, looked at. For one thread at a time.

    :param fd: descriptor of the pool's segment; not kept.
    :param opened: opens what is that descriptor in the pool's process; raises OSError.
    :raises ValueError: the pool is of another build of celery_pool.
    """

    def __init__(self, fd: int, opened: Opener) -> None:
        self._map = PoolMap(fd)
        self._opened = opened
        self._workers: dict[tuple[int, ...], WorkerMap] = {}

    def ledger(self) -> Ledger:
        """The counters."""
        return Ledger(*self._map.now()[0])

    def story(self) -> dict[str, Any]:
        """What changes rarely: ``name``, ``pid``, ``started`` (seconds since the epoch); once a
        worker has ended or something went wrong, ``exits`` by reason and ``recent`` (the last
        deaths, limits and failures). Empty if it is not readable."""
        try:
            story = json.loads(self._map.story())
        except ValueError:
            return {}
        return story if isinstance(story, dict) else {}

    def workers(self) -> list[WorkerInfo]:
        """In the order of their index."""
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        names = self._map.names()
        found = []
        for row, shown in self._rows():
            pid, _, index, state, started, queued, _, done = row
            running = None if shown is None else shown.running()
            if state == "serving":
                state = "idle" if running is None else "busy"
            tid = function = running_for = None
            if running is not None:
                tid, fid, since = running
                function = names.get(fid, OTHER)
                running_for = max(0.0, now - since / 1e9)
            found.append(
                WorkerInfo(
                    pid=pid,
                    index=index,
                    state=state,
                    tid=tid,
                    function=function,
                    running_for=running_for,
                    queued=max(0, queued - (running is not None)),
                    done=done,
                    rss=_rss(pid),
                    age=max(0.0, now - started / 1e9),
                )
            )
        return sorted(found, key=lambda worker: worker.index)

    def functions(self) -> dict[str, FunctionStatistics]:
        """By name: of all workers, those that have ended included."""
        while True:
            recovered = self._map.recovered
            tallies = self._map.ended()
            for row, shown in self._rows():
                if shown is not None:
                    own = shown.tallies()
                    if sum(_count(tally) for tally in own) <= row[6] + AHEAD:
                        tallies += own
            if self._map.recovered == recovered:  # else some may be there twice, or missing
                break
        names = self._map.names()
        by_name: dict[str, list[Any]] = {}
        for tally in tallies:
            by_name.setdefault(names.get(tally[0], OTHER), []).append(tally)
        return {name: _together(name, tallies) for name, tallies in by_name.items()}

    def recorders(self) -> Iterator[tuple[int, int, WorkerMap]]:
        """(pid, index, map) of each worker; the map stays good when the worker is gone."""
        for row, shown in self._rows():
            if shown is not None:
                yield row[0], row[2], shown

    @property
    def buried(self) -> int:
        """Workers that have been and are gone."""
        return self._map.recovered

    def names(self) -> dict[int, str]:
        """Of functions, by id."""
        return self._map.names()

    def _rows(self) -> Iterator[tuple[tuple[Any, ...], WorkerMap | None]]:
        """Each worker's row, and a map of its segment if that can be had."""
        rows = self._map.now()[1]
        maps: dict[tuple[int, ...], WorkerMap] = {}
        for row in rows:
            key = (row[1], row[4])  # descriptor, start
            shown = self._workers.get(key)
            if shown is None:
                with contextlib.suppress(OSError, ValueError), self._opened(row[1]) as fd:
                    shown = WorkerMap(fd)
            if shown is not None:
                maps[key] = shown
            yield row, shown
        self._workers = maps


@contextlib.contextmanager
def _own(fd: int) -> Iterator[int]:
    yield fd


def view_of_own(segment_fd: int) -> PoolView:
    """Of a pool of this process."""
    return PoolView(segment_fd, _own)


def _count(tally: tuple[Any, ...]) -> int:
    return sum(memoryview(tally[4]).cast("Q"))


def _together(name: str, tallies: list[tuple[Any, ...]]) -> FunctionStatistics:
    run = _histogram([(tally[4], tally[2]) for tally in tallies])
    return FunctionStatistics(
        name=name,
        count=run.count,
        failed=sum(tally[1] for tally in tallies),
        run=run,
        wait=_histogram([(tally[5], tally[3]) for tally in tallies]),
    )


def _histogram(parts: list[tuple[bytes, int]]) -> Histogram:
    return Histogram(
        tuple(map(sum, zip(*(memoryview(buckets).cast("Q") for buckets, _ in parts), strict=True))),
        sum(total for _, total in parts) / 1e9,
    )


def _rss(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
