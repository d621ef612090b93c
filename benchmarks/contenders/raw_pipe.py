"""A raw limit: processes that answer over two pipes each; no bookkeeping, no threads, no pool.

Arguments and results are pickled, a message a task. One thread both sends and receives; it keeps at
most WINDOW tasks in a pipe, so that neither side ever blocks on a full one.
"""

import itertools
import multiprocessing
import pickle
from multiprocessing.connection import Connection
from typing import Any

from contenders.base import Callback, Contender, Function, Task, Waitable

WINDOW = 64  # tasks in one pipe; short messages, so they fit into its 64 KiB


def _serve(tasks: Connection, results: Connection) -> None:
    while True:
        try:
            function, args = pickle.loads(tasks.recv_bytes())
        except EOFError:
            return
        results.send_bytes(pickle.dumps(function(*args)))


class _Lane:
    """One process and its two pipes."""

    def __init__(self, context: Any) -> None:
        tasks, self.tasks = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(tasks, results), daemon=True)
        self.process.start()
        tasks.close()
        results.close()
        self.waiting: list[Callback] = []


class RawPipe(Contender):
    name = "raw_pipe"
    only = frozenset({"saturated", "limited", "round_trip", "startup"})

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._lanes = [_Lane(multiprocessing.get_context(context)) for _ in range(processes)]
        self._window = max(1, min(WINDOW, (in_flight or WINDOW * processes) // processes))
        self._next = itertools.cycle(self._lanes).__next__

    def submit(self, task: Task) -> None:
        lane = self._next()
        while len(lane.waiting) >= self._window:
            self._receive(lane)
        lane.tasks.send_bytes(pickle.dumps((task.function, task.args)))
        lane.waiting.append(task.callback)

    def _receive(self, lane: _Lane) -> None:
        value = pickle.loads(lane.results.recv_bytes())
        lane.waiting.pop(0)(value)

    def wait_all(self, done: Waitable) -> None:
        for lane in self._lanes:
            while lane.waiting:
                self._receive(lane)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        lane = self._lanes[0]
        lane.tasks.send_bytes(pickle.dumps((function, args)))
        return pickle.loads(lane.results.recv_bytes())

    def close(self) -> None:
        for lane in self._lanes:
            lane.process.terminate()
            lane.process.join()


CONTENDER = RawPipe
