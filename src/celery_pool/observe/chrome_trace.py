"""Writes Chrome's "Trace Event Format", which Perfetto and chrome://tracing read: a JSON document
whose `traceEvents` are complete events (`"ph": "X"`, `ts` and `dur` in microseconds) and names of
processes and threads (`"ph": "M"`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

_to_json = json.JSONEncoder().encode


class ChromeTrace:
    """Events go to the file as they come, so that memory stays flat.

    :param file: text; it stays the caller's.
    """

    def __init__(self, file: IO[str]) -> None:
        self._write = file.write
        self._separator = "\n"
        self._names: dict[str, str] = {}
        self._write('{"displayTimeUnit": "ms", "traceEvents": [')

    def process(self, pid: int, name: str) -> None:
        self._metadata("process_name", pid, pid, {"name": name})

    def thread(self, pid: int, thread: int, name: str, order: int) -> None:
        """:param order: its place among those of the process, from the top."""
        self._metadata("thread_name", pid, thread, {"name": name})
        self._metadata("thread_sort_index", pid, thread, {"sort_index": order})

    def _metadata(self, what: str, pid: int, thread: int, args: Mapping[str, Any]) -> None:
        self._event(
            _to_json({"ph": "M", "name": what, "pid": pid, "tid": thread, "ts": 0, "args": args})
        )

    def task(
        self,
        pid: int,
        thread: int,
        name: str,
        begin: int,
        lasted: int,
        *,
        failed: bool,
        args: Mapping[str, int | float | bool],
    ) -> None:
        """
        :param begin: ns, on CLOCK_MONOTONIC.
        :param lasted: ns.
        """
        text = self._names.get(name)
        if text is None:
            text = self._names[name] = _to_json(name)
        kind = '"task,failed","cname":"terrible"' if failed else '"task"'
        self._event(
            f'{{"ph":"X","name":{text},"cat":{kind},"pid":{pid},"tid":{thread},'
            f'"ts":{begin / 1000:.3f},"dur":{lasted / 1000:.3f},"args":{_to_json(args)}}}'
        )

    def _event(self, text: str) -> None:
        self._write(self._separator + text)
        self._separator = ",\n"

    def end(self, facts: Mapping[str, Any]) -> None:
        """:param facts: what else is to be known of it."""
        self._write(f'\n], "otherData": {_to_json(facts)}}}\n')
