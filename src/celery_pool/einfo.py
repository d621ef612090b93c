"""ExceptionInfo: how a failed task reaches ``on_return`` and ``on_ready``."""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["ExceptionInfo"]


class ExceptionInfo:
    """An exception with the text of its traceback.

    A task may also *return* one to fail (the convention of early Celery).

    :param exc_info: an exception, a ``sys.exc_info()`` triple, or None for the
        exception being handled.

    ``type``, ``exception`` and ``traceback`` (text) are attributes. For an
    exception that came from a worker the text is the worker's.
    """

    def __init__(
        self,
        exc_info: BaseException
        | tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
        | None = None,
    ) -> None:
        exception = (
            exc_info if isinstance(exc_info, BaseException) else (exc_info or sys.exc_info())[1]
        )
        if exception is None:
            raise ValueError("ExceptionInfo() needs an exception: none is being handled")
        self.type: type[BaseException] = type(exception)
        self.exception: BaseException = exception
        self.traceback: str = traceback_text(exception)

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


def traceback_text(exception: BaseException) -> str:
    """The worker's traceback, if the exception came from one, else its own."""
    remote = getattr(exception.__cause__, "tb", None)
    if isinstance(remote, str):
        return remote.strip('\n"')
    import traceback

    return "".join(traceback.format_exception(exception))
