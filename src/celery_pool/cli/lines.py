"""From outcomes to output lines: the callbacks of the tasks, and the order of their lines."""

from __future__ import annotations

import json
from collections.abc import Callable

from .failures import Failure
from .output import Sink

WINDOW = 1 << 14  # outcomes after the first missing one that are kept back, and in flight, at most
MEMORY = 1 << 25  # bytes kept back or unwritten beyond which nothing more is submitted

_to_json = json.JSONEncoder().encode


class Lines:
    """Takes each outcome once, and writes its line as soon as it is there."""

    def __init__(
        self,
        output: Sink,
        errors: Sink,
        on_failure: Callable[[Failure], None],
        *,
        envelope: bool,
    ) -> None:
        self.submitted = 0
        self.finished = 0
        self.failed = 0
        self.closed = False  # from now on failures are ours, by ending the pool early
        self._output = output
        self._errors = errors
        self._on_failure = on_failure
        self._envelope = envelope

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

    def crowded(self, index: int) -> bool:
        """Whether the task with this index should wait before it is submitted."""
        return self._output.unwritten + self._errors.unwritten > MEMORY

    def _add(self, index: int, line: bytes) -> None:
        if line:
            self._output.put(line)


class OrderedLines(Lines):
    """Writes the lines in the order of the input, and keeps back those that came too early."""

    def __init__(
        self,
        output: Sink,
        errors: Sink,
        on_failure: Callable[[Failure], None],
        *,
        envelope: bool,
    ) -> None:
        super().__init__(output, errors, on_failure, envelope=envelope)
        self._next = 0  # index of the first outcome that is missing
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0

    def crowded(self, index: int) -> bool:
        unwritten = self._output.unwritten + self._errors.unwritten
        return index >= self._next + WINDOW or unwritten + self._early_bytes > MEMORY

    def _add(self, index: int, line: bytes) -> None:
        early = self._early
        if index != self._next:
            early[index] = line
            self._early_bytes += len(line)
            return
        if line:
            self._output.put(line)
        index += 1
        while early and (kept := early.pop(index, None)) is not None:
            if kept:
                self._early_bytes -= len(kept)
                self._output.put(kept)
            index += 1
        self._next = index
