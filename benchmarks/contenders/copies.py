"""Plain copies into warm memory, in the caller: what moving a payload costs at least.

One copy for each way that a payload goes: what writes it into memory that another process sees.
"""

from typing import Any

import numpy

from contenders.base import Contender, Function, Task
from task_bodies import echo, make_payload


class Copies(Contender):
    name = "copies"
    only = frozenset({"payload"})

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._targets: tuple[Any, ...] = ()

    def submit(self, task: Task) -> None:
        raise NotImplementedError("copies are no tasks")

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        payload = make_payload(*args) if function is make_payload else args[0]
        source = numpy.frombuffer(payload, dtype=numpy.uint8)
        if not self._targets:
            self._targets = (numpy.zeros_like(source), numpy.zeros_like(source))
        there, back = self._targets
        numpy.copyto(there, source)
        if function is echo:
            numpy.copyto(back, there)
        return back

    def close(self) -> None:
        pass


CONTENDER = Copies
