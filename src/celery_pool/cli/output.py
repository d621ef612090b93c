"""Writing: one thread writes everything, so that no callback ever waits for a slow reader.

    callbacks --put--> Sink (results) --\
    callbacks --put--> Sink (failures) --+--> Writer thread --> write(2)
                                            |
                                 Progress --/

The main thread looks at `Sink.unwritten` and submits no more while too much waits here.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable, Sequence

from .progress import REFRESH, Progress
from .sources import STANDARD
from .usage import UsageError

GATHER = 0.01  # seconds in which lines come together to one write
BATCH = 1 << 20  # bytes after which lines are written although more are there
LINE = 64  # bytes of memory that a waiting line takes beside its text
PARTING = 0.25  # seconds that a reader who does not read holds up the end after a stop


class Sink:
    """The lines on their way to one descriptor. One thread at a time calls `put`, a callback."""

    def __init__(self, fd: int, name: str, *, owned: bool = False) -> None:
        self.fd = fd
        self.name = name  # for messages
        self.owned = owned  # closed at the end
        self.terminal = os.isatty(fd)
        self.wake: Callable[[], None] | None = None  # set by a writer that sleeps
        self.error: OSError | None = None  # why nothing is written any more
        self._lines: deque[bytes] = deque()
        self._put = 0  # bytes of memory, counted by the callbacks
        self._done = 0  # bytes of memory, counted by the writer

    def put(self, line: bytes) -> None:
        self._lines.append(line)
        self._put += len(line) + LINE
        wake = self.wake
        if wake is not None:
            wake()

    @property
    def unwritten(self) -> int:
        """The memory that the lines take which are not written yet, in bytes."""
        return self._put - self._done

    def waiting(self) -> bool:
        return bool(self._lines)

    def write(self) -> None:
        """Writes lines that wait, about BATCH bytes; on an error, keeps it and drops them."""
        lines: list[bytes] = []
        size = 0
        with contextlib.suppress(IndexError):
            while size < BATCH:
                line = self._lines.popleft()
                lines.append(line)
                size += len(line)
        self._write(memoryview(b"".join(lines)))
        self._done += size + len(lines) * LINE

    def _write(self, rest: memoryview) -> None:
        while rest and self.error is None:
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:  # a descriptor set to non-blocking by somebody else
                select.select([], [self.fd], [])
            except OSError as error:
                self.error = error

    def close(self) -> None:
        if self.owned:
            self.owned = False
            try:
                os.close(self.fd)
            except OSError as error:
                self.error = self.error or error


class Writer(threading.Thread):
    """Writes what the sinks hold, soon after it came, and refreshes the progress."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        progress: Progress,
        on_error: Callable[[Sink], None],
    ) -> None:
        # A daemon: a reader that never reads may hold it for ever.
        super().__init__(name="celery-pool-writer", daemon=True)
        self._sinks = sinks
        self._progress = progress
        self._on_error = on_error
        self._something = threading.Event()
        self._ending = threading.Event()

    def finish(self) -> None:
        """Returns when everything has been written."""
        self._end()
        self.join()
        for sink in self._sinks:
            self._close(sink)

    def abandon(self) -> None:
        """Writes what a reader takes at once, and leaves the rest."""
        self._end()
        self.join(PARTING)

    def run(self) -> None:
        while True:
            ending = self._ending.is_set()
            busy = [sink for sink in self._sinks if sink.waiting()]
            if busy:
                with self._progress.hidden(any(sink.terminal for sink in busy)):
                    for sink in busy:
                        self._write(sink)
            self._progress.refresh()
            if ending and not busy:
                return
            if not ending:
                self._sleep()

    def _write(self, sink: Sink) -> None:
        intact = sink.error is None
        sink.write()
        if intact and sink.error is not None:
            self._on_error(sink)

    def _close(self, sink: Sink) -> None:
        intact = sink.error is None
        sink.close()
        if intact and sink.error is not None:
            self._on_error(sink)

    def _sleep(self) -> None:
        self._something.clear()
        for sink in self._sinks:
            sink.wake = self._wake
        if not any(sink.waiting() for sink in self._sinks) and not self._ending.is_set():
            self._something.wait(REFRESH if self._progress.shown else None)
        self._ending.wait(GATHER)

    def _wake(self) -> None:
        for sink in self._sinks:
            sink.wake = None
        self._something.set()

    def _end(self) -> None:
        self._ending.set()
        self._something.set()


def open_sink(file: str, standard_fd: int, standard_name: str, inputs: Sequence[str]) -> Sink:
    """The sink to this file, emptied, or to a standard stream; or a UsageError."""
    if file == STANDARD:
        return Sink(standard_fd, standard_name)
    for name in inputs:
        if name != STANDARD and is_same_file(name, file):
            raise UsageError(f"{file!r} is input and output at once")
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot write {file!r}: {reason}") from None
    return Sink(fd, file, owned=True)


def is_same_file(one: str, other: str) -> bool:
    """Whether both name one regular file, which may be missing yet."""
    try:
        status = os.stat(one), os.stat(other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)
    return stat.S_ISREG(status[0].st_mode) and os.path.samestat(*status)
