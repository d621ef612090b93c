"""No pool: task and callback run in the caller. What the suite itself costs, below every figure."""

from typing import Any

from contenders.base import Callback, Contender, Function


class Inline(Contender):
    name = "inline"

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        pass

    def submit(
        self,
        function: Function,
        args: tuple[Any, ...],
        callback: Callback,
        errback: Callback | None = None,
    ) -> None:
        callback(function(*args))

    def submit_many(
        self, function: Function, args: tuple[Any, ...], callback: Callback, count: int
    ) -> None:
        for _ in range(count):
            callback(function(*args))

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return function(*args)

    def close(self) -> None:
        pass


CONTENDER = Inline
