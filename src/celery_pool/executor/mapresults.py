"""What TaskPoolExecutor.map returns: the values of a window's jobs, and no futures."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import TypeVar

from ..taskpool import Results, Window
from .life import Life

T = TypeVar("T")


@Results.iterated_alike
class MapResults(Results[T]):
    """All is submitted, and there is no hurry.

    No generator, which an exception would end. When it goes, tasks that have not started
    are cancelled.
    """

    def __del__(self) -> None:
        self.close()


class FedMapResults(MapResults[T]):
    """More is submitted as results are taken, or they have to be there in time.

    :param feed: submits as many as there is room for.
    :param deadline: of time.monotonic(); None: none.
    """

    def __init__(
        self,
        life: Life,
        window: Window,
        chunked: bool,
        feed: Callable[[], None],
        deadline: float | None,
    ) -> None:
        super().__init__(life.pool, window, chunked=chunked, owner=life)
        self._feed = feed
        self._deadline = deadline

    def __next__(self) -> T:
        deadline = self._deadline
        try:
            try:
                return self.next(None if deadline is None else deadline - time.monotonic())
            except multiprocessing.TimeoutError as error:
                if error.__cause__ is not None:  # a task has raised it
                    raise
                self.close()
                raise TimeoutError from None
            finally:
                if not self.window.over and self.window.room:
                    self._refill()
        finally:
            # an exception's traceback would keep it: the rest would not be cancelled when the
            # iterator is dropped
            del self

    def _refill(self) -> None:
        try:
            self._feed()
        except BaseException:
            self.close()
            raise
