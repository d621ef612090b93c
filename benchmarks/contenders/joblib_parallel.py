"""joblib.Parallel over loky: large numpy arrays go to the workers through memory-mapped files.

It maps functions over batches and has no submit, so it is measured where one task at a time
carries data, and by its own interface.
"""

import contextlib
from typing import Any

import joblib

from contenders.base import Contender, Function, Task


class JoblibParallel(Contender):
    name = "joblib"
    distribution = "joblib"
    only = frozenset({"payload", "facades"})

    def start(self, processes: int, in_flight: int | None, context: str) -> None:
        self._parallel = joblib.Parallel(n_jobs=processes, backend="loky").__enter__()

    def facade(
        self, interface: str, processes: int, context: str
    ) -> contextlib.AbstractContextManager[Any]:
        if interface == "joblib":
            parallel = joblib.Parallel(n_jobs=processes, backend="loky")
            return parallel  # type: ignore[no-any-return]
        return super().facade(interface, processes, context)

    def submit(self, task: Task) -> None:
        raise NotImplementedError("joblib has no submit")

    def round_trip(self, function: Function, args: tuple[Any, ...]) -> Any:
        return self._parallel([joblib.delayed(function)(*args)])[0]

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)


CONTENDER = JoblibParallel
