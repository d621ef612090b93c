"""What the workers of a pool do for a while, task by task: reads their recorders from outside."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .._poolcore import WorkerMap
from .chrome_trace import ChromeTrace
from .facts import OTHER
from .outside import OutsideView

#: Seconds from one look to the next: a worker that ends more than 4,095 tasks within it has some
#: of them missed, and so has one that comes and goes within it.
PAUSE = 0.005
#: Seconds that a recorder may be behind its worker: it records a task when it goes on.
GRACE = 0.05

Task = tuple[int, int, int]  # tid, function id, start in ns


@dataclass
class Track:
    """One worker."""

    pid: int  # 0: not known yet
    index: int
    next: int  # number of the record to be read next
    before: Task | None = None  # what it ran when the recording began
    named: bool = False
    tids: set[int] = field(default_factory=set)  # taken by the last look


class Recording:
    """Of one pool; for one thread.

    :param prefix: of the workers' names in the trace.
    """

    def __init__(self, view: OutsideView, trace: ChromeTrace, prefix: str) -> None:
        self._view = view
        self._trace = trace
        self._prefix = prefix
        self._names = view.names()
        self._buried = view.buried
        self._gone = 0  # workers that we have seen end
        self._tracks: dict[WorkerMap, Track] = {}
        self.tasks = 0
        self.missed = 0
        for pid, index, recorder in view.recorders():
            number, _, _ = recorder.records(0)  # those are of an earlier recording
            self._tracks[recorder] = Track(pid, index, number, recorder.running())

    @property
    def missed_workers(self) -> int:
        """That have come and gone between two looks, with whatever they have done."""
        return max(0, self._view.buried - self._buried - self._gone)

    def begin(self, until: int) -> None:
        """From now on tasks are recorded.

        :param until: of CLOCK_MONOTONIC, in ns.
        """
        self._view.record_until(until)

    def look(self) -> None:
        """Takes what there is since the last look."""
        alive = set()
        for pid, index, recorder in self._view.recorders():
            alive.add(recorder)
            track = self._tracks.setdefault(recorder, Track(pid, index, 0))
            track.pid = pid
        for recorder, track in list(self._tracks.items()):
            if recorder in alive:
                if track.pid:
                    self._take(recorder, track)
            else:  # its memory is still here
                self._take(recorder, track)
                self._last_task(recorder, track)
                del self._tracks[recorder]
                self._gone += 1

    def finish(self) -> None:
        """The last look; what runs on is shown as it is."""
        running = {recorder: recorder.running() for recorder in self._tracks}
        self.look()
        for recorder, track in self._tracks.items():
            task = running.get(recorder)
            if task is not None and task[0] not in track.tids:
                self._task(track, task, _now() - task[2], ended=False)

    def _take(self, recorder: WorkerMap, track: Track) -> None:
        running = recorder.running()
        number, missed, records = recorder.records(track.next)
        track.next = number
        now = _now()
        track.tids.clear()
        for tid, fid, waited, start, ran, failed in records:
            if not start + ran <= now or not tid:  # no worker writes that
                missed += 1
                continue
            if track.before is not None and track.before[0] == tid:
                track.before = None
            track.tids.add(tid)
            self._task(track, (tid, fid, start), ran, failed=failed, waited=waited)
        self.missed += missed
        if track.before is not None and running != track.before:
            # it was not recorded; its end is known as well as we look
            self._task(track, track.before, now - track.before[2])
            track.before = None

    def _last_task(self, recorder: WorkerMap, track: Track) -> None:
        """The one that its worker has died of."""
        task = recorder.running()
        if task is not None and task[0] not in track.tids:
            self._task(track, task, _now() - task[2], failed=True, ended=False)

    def _task(
        self,
        track: Track,
        task: Task,
        lasted: int,
        *,
        failed: bool = False,
        waited: int | None = None,
        ended: bool = True,
    ) -> None:
        tid, fid, start = task
        if fid and fid not in self._names:
            self._names = {fid: OTHER} | self._view.names()
        if not track.named:
            track.named = True
            name = f"{self._prefix}worker {track.index}"
            self._trace.thread(self._view.pid, track.pid, name, track.index)
        args: dict[str, int | float | bool] = {"task": tid}
        if waited is not None:
            args["queued_us"] = waited / 1000
        if not ended:
            args["ended"] = False
        self.tasks += 1
        name = self._names.get(fid, OTHER)
        self._trace.task(
            self._view.pid, track.pid, name, start, max(0, lasted), failed=failed, args=args
        )


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
