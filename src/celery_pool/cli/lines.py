"""From outcomes to output lines: the callbacks of the tasks, and the order of their lines."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..taskpool import Window
from .failures import Failure
from .output import Sink

WINDOW = 1 << 14  # outcomes after the first missing one that are kept back, and in flight, at most
MEMORY = 1 << 25  # bytes kept back or unwritten beyond which nothing more is submitted

_to_json = json.JSONEncoder().encode


class Lines:
    """Takes each outcome once, and writes its line: in the order of the input, or as soon as it
    is there."""

    def __init__(
        self,
        output: Sink,
        errors: Sink,
        on_failure: Callable[[Failure], None],
        *,
        envelope: bool,
        ordered: bool,
    ) -> None:
        self._window = Window(WINDOW if ordered else None, ordered)
        self._kept = 0  # bytes of lines that came too early
        self.finished = 0
        self.failed = 0
        self.closed = False  # from now on failures are ours, by ending the pool early
        self._output = output
        self._errors = errors
        self._on_failure = on_failure
        self._envelope = envelope

    @property
    def submitted(self) -> int:
        """Tasks of which an outcome comes, or has come."""
        return self._window.count

    def expect(self) -> int:
        """One more task: its index."""
        return self._window.put()

    def on_result(self, result: bytes, index: int) -> None:
        """The callback. The result is a JSON document, or nothing for a record that held none."""
        self.finished += 1
        if not result:
            self._add(index, b"")
        elif self._envelope:
            self._add(index, b'{"index": %d, "ok": true, "value": %b}\n' % (index, result))
        else:
            self._add(index, result + b"\n")

    def on_error(self, error: BaseException, index: int) -> None:
        """The errback."""
        if self.closed:
            return
        self.finished += 1
        self.failed += 1
        failure = Failure(index, error)
        if self._envelope:
            document = {"index": index, "ok": False, "error": failure.as_error()}
            self._add(index, _to_json(document).encode() + b"\n")
        else:
            self._add(index, b"")
        self._on_failure(failure)

    def crowded(self) -> bool:
        """Whether the next task should wait before it is submitted."""
        if not self._window.room:
            return True
        return self._output.unwritten + self._errors.unwritten + self._kept > MEMORY

    def _add(self, index: int, line: bytes) -> None:
        """Writes what is due, and keeps back what came too early."""
        window = self._window
        window.arrive(line, index)
        self._kept += len(line)
        while window.ready:
            line = window.take()
            self._kept -= len(line)
            if line:
                self._output.put(line)
