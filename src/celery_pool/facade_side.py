"""What facades need of a TaskPool and its users do not.

They touch neither the core nor the supervisor; tests/packaging/test_house.py holds them to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext

from ._poolcore import (
    AsyncResult,
    AwaitedBase,
    JobFuture,
    TaskPoolBase,
    check_callable,
    fail,
    succeed,
)
from .wire.remote import without_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .settings import Settings

    Callback = Callable[[Any, Any], object]
    Callbacks = Callback | Iterable[Callback] | None

    class LoopSide(Protocol):
        """One run of a pool as an event loop sees it, in the loop's thread alone."""

        @property
        def running(self) -> bool:
            """Whether the pool takes tasks."""

        @property
        def in_flight(self) -> int:
            """Submitted and not collected."""

        @property
        def pending(self) -> int:
            """Whose callbacks have not returned."""

        @property
        def reaped(self) -> int:
            """How many have ended, callbacks included."""

        #: Somebody waits in the loop for a slot: who comes now waits behind.
        crowded: bool

        def hush(self) -> object:
            """The loop looks by itself, by poll(), until listen()."""

        def listen(self) -> None:
            """The loop is about to sleep at the pool's descriptor."""

        def poll(self) -> int:
            """Reaps what has ended, without waiting; returns how many."""


class FacadeSide(TaskPoolBase):
    """Of :class:`TaskPool`."""

    _settings: Settings
    _lost_breaks_pool = False  # of a subclass: the first worker that dies unasked ends it all

    @property
    def _start_method(self) -> str:
        return self._settings.context.get_start_method()

    @property
    def _context(self) -> BaseContext:
        return self._settings.context

    def _check_process(self) -> None:
        """WrongProcess in a forked child."""
        self._core.check_process()

    @property
    def _running(self) -> bool:
        """Whether it takes tasks."""
        return self._core.running

    @property
    def _why_broken(self) -> str | None:
        """What to tell about a pool that is broken; None: it is not."""
        broken = self._core.broken
        return None if broken is None else str(broken[1]["message"])

    @property
    def _inside_callback(self) -> bool:
        """Whether the calling thread runs callbacks of this pool."""
        return self._core.inside_callback

    @staticmethod
    def _check_one_argument(callback: object, signature: str) -> None:
        """TypeError if it cannot be called with one argument, as `signature` says."""
        check_callable(callback, 1, signature)

    def _run_callbacks(self, callbacks: Callbacks, argument: Any) -> None:
        """Calls each with `argument` and a meta, as the pool calls those of its tasks."""
        self._core.run_callbacks(callbacks, argument, None)

    def _submit_ended(
        self,
        error: BaseException | None,
        callbacks: Callbacks = None,
        errbacks: Callbacks = None,
    ) -> AsyncResult[Any]:
        """A job that has ended already, with `error`, or with None as its result; its
        callbacks are dispatched like all others. Never waits for a slot."""
        return self._core.add_ended(error, callbacks, errbacks, None, self)

    def _submit_failed(
        self, error: BaseException, callbacks: Callbacks = None, errbacks: Callbacks = None
    ) -> AsyncResult[Any]:
        """The job of a submission that has raised `error`, where its caller shall not."""
        return self._submit_ended(without_frames(error), callbacks, errbacks)

    def _pending_jobs(self) -> list[AsyncResult[Any]]:
        """What is in flight, in no particular order."""
        return self._core.pending_jobs()

    def _loop_side(self) -> LoopSide:
        """Of this run, for who drives it from an event loop."""
        return self._core

    def _describe(self, what: str) -> str:
        """For a repr: with the state and what is in flight, and `what` between them."""
        core = self._core
        return f"{core.state_name()} {what} in_flight={core.in_flight}"


__all__ = ["AwaitedBase", "FacadeSide", "JobFuture", "fail", "succeed"]
