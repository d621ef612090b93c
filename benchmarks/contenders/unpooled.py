"""Plain processes without a pool: each is forked with its share and runs it in a loop.

The ideal for tasks that compute: nothing is sent, nothing is waited for. Results do not come back
one by one.
"""

import multiprocessing
from typing import Any

from contenders.base import Contender, Function, Task, Waitable


def _run(function: Function, args: tuple[Any, ...], count: int) -> None:
    for _ in range(count):
        function(*args)


class Unpooled(Contender):
    name = "unpooled"
    only = frozenset({"cpu_bound"})

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._context = multiprocessing.get_context("fork")
        self._processes = processes
        self._running: list[Any] = []

    def submit(self, task: Task) -> None:
        self.submit_many(task, 1)

    def submit_many(self, task: Task, count: int) -> None:
        function, args, callback, _ = task
        shares = [
            count // self._processes + (index < count % self._processes)
            for index in range(self._processes)
        ]
        self._running = [
            self._context.Process(target=_run, args=(function, args, share)) for share in shares
        ]
        self._finished = (callback, count)
        for process in self._running:
            process.start()

    def wait_all(self, done: Waitable) -> None:
        for process in self._running:
            process.join()
        callback, count = self._finished
        for _ in range(count):
            callback(None)

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


CONTENDER = Unpooled
