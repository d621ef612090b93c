"""No pool: task and callback run in the caller. What the suite itself costs, below every figure."""

from typing import Any

from contenders.base import Contender, Function, Task


class Inline(Contender):
    name = "inline"

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        pass

    def submit(self, task: Task) -> None:
        task.callback(task.function(*task.args))

    def submit_many(self, task: Task, count: int) -> None:
        function, args, callback, _ = task
        for _ in range(count):
            callback(function(*args))

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return function(*args)

    def close(self) -> None:
        pass


CONTENDER = Inline
