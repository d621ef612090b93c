"""Failed tasks, told to people (one line) and to programs (a JSON document)."""

from __future__ import annotations

import json
import traceback
from typing import Any

from celery_pool.errors import describe_exit
from celery_pool.wire.remote import UnpicklableError

from .. import PoolError, WorkerLostError

MESSAGE_LENGTH = 500  # characters of a message in a line for people

_to_json = json.JSONEncoder().encode


class Failure:
    """One failed task."""

    __slots__ = ("error", "index")

    def __init__(self, index: int, error: BaseException) -> None:
        self.index = index
        self.error = error

    @property
    def type(self) -> str:
        """The exception's type, named as a traceback does."""
        if isinstance(self.error, UnpicklableError):
            return self.error.type_name.removeprefix("builtins.")
        kind = type(self.error)
        if kind.__module__ in {"builtins", "__main__"}:
            return kind.__qualname__
        if isinstance(self.error, PoolError):
            return f"celery_pool.{kind.__qualname__}"
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def message(self) -> str:
        if isinstance(self.error, WorkerLostError):
            return f"worker {self.error.pid} was lost: {describe_exit(self.error.exitcode)}"
        if isinstance(self.error, UnpicklableError):
            return self.error.text
        try:
            return str(self.error)
        except Exception:
            return f"<{type(self.error).__qualname__} whose text cannot be had>"

    def as_error(self) -> dict[str, Any]:
        """What the envelope says of it."""
        return {"type": self.type, "message": self.message}

    def as_line(self, source: str, number: int | None) -> str:
        place = printable(source) if number is None else f"{printable(source)}:{number}"
        message = printable(self.message[:MESSAGE_LENGTH])
        if len(self.message) > MESSAGE_LENGTH:
            message += " ..."
        return f"task {self.index} ({place}): {self.type}: {message}".rstrip(": ")

    def as_document(self, source: str, number: int | None) -> str:
        document: dict[str, Any] = {"index": self.index, "source": source, "line": number}
        document |= self.as_error()
        if isinstance(self.error, WorkerLostError):
            document |= {"pid": self.error.pid, "exitcode": self.error.exitcode}
        document["traceback"] = self._traceback()
        return _to_json(document)

    def _traceback(self) -> str:
        """The worker's traceback where there is one: it comes as the text of the cause."""
        cause = self.error.__cause__
        try:
            if cause is not None:
                return str(cause).strip().strip('"').strip()
            return "".join(traceback.format_exception(self.error)).strip()
        except Exception:
            return ""


def printable(text: str) -> str:
    """The text on one line, without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
