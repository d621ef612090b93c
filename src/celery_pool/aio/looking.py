"""When the event loop looks for results; all of it in the loop's thread."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..facade_side import LoopSide


#: Rounds of the loop in which the pool looks in vain before it waits for its descriptor.
LOOKS = 10
#: Seconds; had it slept no longer than this, it should have gone on looking.
SHORT_SLEEP = 100e-6


class Looking:
    """While tasks are in flight it looks by itself, once each round of the loop; then
    it sleeps at the pool's descriptor.

    :param after_look: called after each look.
    """

    _side: LoopSide

    def __init__(self, after_look: Callable[[], object]) -> None:
        self._after_look = after_look
        self._loop: asyncio.AbstractEventLoop | None = None
        self.fd = -1  # watched by the loop
        self.awake = False  # looks by itself
        self._vain = 0  # looks, since it woke
        self._most_vain = LOOKS
        self._asleep_since = 0.0

    def begin(self, loop: asyncio.AbstractEventLoop, side: LoopSide, fd: int) -> None:
        """A new run of the pool; after end()."""
        self._loop = loop
        self._side = side
        self.awake = False
        self.fd = fd
        loop.add_reader(fd, _on_readable, weakref.ref(self))

    def wake(self) -> None:
        """From now on it looks by itself."""
        if self._loop is None:  # it is being started again
            return
        self._loop.call_soon(self._look)  # first: a Ctrl-C may come in between
        self.awake = True
        self._vain = 0
        self._side.hush()

    def on_readable(self) -> None:
        if self.awake:
            self._side.hush()  # rung before it woke
            return
        slept = time.monotonic() - self._asleep_since
        self._most_vain = LOOKS if slept < SHORT_SLEEP else self._most_vain // 2
        self.wake()

    def _look(self) -> None:
        loop, side = self._loop, self._side
        if loop is None:  # it is being started again
            return
        again = False
        try:
            if self._vain:
                os.sched_yield()  # the worker may want for a CPU
            if side.poll():
                self._vain = 0
            else:
                self._vain += 1
            self._after_look()
            again = side.pending > 0 and self._vain <= self._most_vain
        finally:  # a KeyboardInterrupt, too: the loop may go on
            if again:
                loop.call_soon(self._look)
            else:
                self.awake = False
                self._asleep_since = time.monotonic()
                side.listen()

    def unwatch(self) -> None:
        """The loop lets go of the descriptor."""
        fd, self.fd = self.fd, -1
        loop = self._loop
        if fd < 0 or loop is None or loop.is_closed():
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop or not loop.is_running():
            loop.remove_reader(fd)
        else:  # collected in another thread; the core keeps the descriptor until then
            loop.call_soon_threadsafe(_remove_reader, loop, fd, self._side)

    def end(self) -> None:
        """What was its loop has no part in the next run."""
        self.unwatch()
        self._loop = None


def _on_readable(reference: weakref.ref[Looking]) -> None:
    looking = reference()
    if looking is not None:
        looking.on_readable()


def _remove_reader(loop: asyncio.AbstractEventLoop, fd: int, side: object) -> None:
    loop.remove_reader(fd)
