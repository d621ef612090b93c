"""Where the records come from: lines of files and standard input, or paths as arguments.

Records are bytes without their terminator, numbered from 0 over all sources together; `locate`
turns such an index into a source and a line. A file that cannot be read to its end gives an OSError
in place of the record.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Protocol

from .usage import UsageError

STANDARD = "-"  # the name of standard input and output on the command line
CHUNK = 1 << 16  # bytes of one read
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Records(Protocol):
    """The records of all sources."""

    total: int | None  # how many there are, if that is known beforehand

    def __iter__(self) -> Iterator[bytes | OSError]: ...

    def locate(self, index: int) -> tuple[str, int | None]:
        """The source of the record with this index, and its number there, from 1."""


class GivenPaths:
    """Paths that are themselves the records."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.total: int | None = len(paths)

    def __iter__(self) -> Iterator[bytes | OSError]:
        return map(os.fsencode, self._paths)

    def locate(self, index: int) -> tuple[str, int | None]:
        return self._paths[index], None


class FileRecords:
    """The records in files, one file after the other."""

    def __init__(self, files: Sequence[str], separator: bytes, *, text: bool) -> None:
        self.total: int | None = None
        self._files = files
        self._separator = separator
        self._text = text  # a byte order mark at its start is no part of it
        self._count = 0  # records handed out or about to be, of all files
        self._firsts: list[int] = []  # index of the first record of each file begun
        self._names: list[str] = []  # the name of each file begun

    def __iter__(self) -> Iterator[bytes | OSError]:
        for file in self._files:
            self._firsts.append(self._count)
            self._names.append("stdin" if file == STANDARD else file)
            try:
                with _open(file) as raw:
                    for records in self._split(raw):
                        self._count += len(records)
                        yield from records
            except OSError as error:
                self._count += 1
                yield error

    def locate(self, index: int) -> tuple[str, int | None]:
        place = bisect_right(self._firsts, index) - 1
        return self._names[place], index - self._firsts[place] + 1

    def _split(self, raw: io.FileIO) -> Iterator[list[bytes]]:
        """The records in batches, each as soon as it can be read: the input may be a slow pipe."""
        started = False
        parts: list[bytes] = []  # of the record whose end is yet to come
        while chunk := _read(raw):
            if not started:
                started = True
                if self._text:
                    chunk = chunk.removeprefix(BYTE_ORDER_MARK)
            records = chunk.split(self._separator)
            if len(records) > 1:
                parts.append(records[0])
                records[0] = b"".join(parts)
                parts = [records.pop()]
                yield records
            else:
                parts.append(chunk)
        if last := b"".join(parts):
            yield [last]


def check(files: Sequence[str]) -> None:
    """UsageError for the first file that clearly cannot be read, before anything is done."""
    for file in files:
        if file == STANDARD:
            if sys.stdin is None:
                raise UsageError("standard input is closed")
            continue
        try:
            mode = os.stat(file).st_mode
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {file!r}: {_reason(error)}") from None
        if stat.S_ISDIR(mode):
            raise UsageError(f"cannot read {file!r}: it is a directory")
        if not os.access(file, os.R_OK):
            raise UsageError(f"cannot read {file!r}: permission denied")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _open(file: str) -> io.FileIO:
    if file == STANDARD:
        return io.FileIO(0, closefd=False)
    return io.FileIO(file)


def _read(raw: io.FileIO) -> bytes:
    while (chunk := raw.read(CHUNK)) is None:  # a descriptor set to non-blocking by somebody else
        select.select([raw], [], [])
    return chunk
