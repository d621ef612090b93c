"""The raw limit: processes that answer over the core's rings in shared memory, driven by a loop in
C (rings.c). No pool, no Python objects, no callbacks: the messages are counted in C.

A round trip has the call of that loop from Python around it, some 0.3 µs.
"""

import threading
from typing import Any

import rings
from contenders.base import Contender, Function, Task, Waitable

rings.library()  # ImportError: not to be had here
WINDOW = 1_024  # messages in one ring


class RawShared(Contender):
    name = "raw_shared"
    only = frozenset({"saturated", "limited", "round_trip"})

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._in_flight = in_flight or WINDOW * processes
        self._in_flight = min(self._in_flight, WINDOW * processes)
        self._lanes = rings.Lanes(processes)
        self._lanes.start()

    def submit(self, task: Task) -> None:
        self.submit_many(task, 1)

    def submit_many(self, task: Task, count: int) -> None:
        if task.args:
            raise NotImplementedError("its messages carry nothing")
        self._lanes.exchange(count, self._in_flight)

    def wait_all(self, done: Waitable) -> None:
        assert isinstance(done, threading.Event)
        done.set()  # submit_many has waited for the answers

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        self._lanes.exchange(1, 1)

    def close(self) -> None:
        self._lanes.close()


CONTENDER = RawShared
