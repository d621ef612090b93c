"""Exceptions on their way from a worker to the parent.

The pickled exception travels inside an outer pickle of plain text, so that an
exception that cannot be pickled, or not be unpickled, still arrives with its
type's name, its text and the worker's traceback.

Its methods are the user's, and so are those of what pickling it raises: each may raise
anything, SystemExit too, which neither ends the worker nor leaves `get()`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import TracebackType

from ..einfo import ExceptionInfo
from ..errors import PoolError, ResultDecodingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from ..errors import ResultEncodingError

LONGEST_SHORT_TEXT = 1000

_UNKNOWN_IN_MAIN = (
    "workers know __main__ as it was when the pool was made, under forkserver and spawn without "
    "what stands behind `if __name__ == '__main__'`. Make the pool after this, or with "
    "pickler=cloudpickle"
)


class ReturnedError(Exception):
    """In the worker: the task has returned an ExceptionInfo."""

    def __init__(self, info: ExceptionInfo) -> None:
        super().__init__(info)
        self.info = info


class UnpicklableError(PoolError):
    """Stands in the parent for a task's exception that could not be pickled.

    ``type_name`` is the class's qualified name; ``__cause__`` holds the worker's
    traceback.
    """

    def __init__(self, type_name: str, text: str, why: str) -> None:
        super().__init__(type_name, text, why)
        self.type_name = type_name
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return (
            f"{self.type_name}: {self.text} "
            f"(the exception itself did not survive pickling: {self.why})"
        )


def explain(error: BaseException) -> None:
    """In the worker: `error` came while a task was unpickled. Adds to its text what to do if it is
    because the worker does not know a name of the program's."""
    if type(error) is AttributeError and len(error.args) == 1:
        text = error.args[0]
        if "'__main__'" in text or "'__mp_main__'" in text:
            error.args = (f"{text}: {_UNKNOWN_IN_MAIN}",)


def dump_error(error: BaseException) -> bytes:
    """In the worker: everything about `error` that can travel."""
    if type(error) is ReturnedError:
        exception, text = error.info.exception, error.info.traceback
    else:
        exception = error
        text = _formatted(error, without_core_frames(_traceback_of(error)))
    why = ""
    try:
        pickled = bytes(ForkingPickler.dumps(exception))
    except BaseException as problem:
        pickled = b""
        why = _described(problem)
    return pickle.dumps(
        (full_name(type(exception)), _safely(str, exception), text, why, pickled), 5
    )


def full_name(target: Callable[..., Any]) -> str:
    """Of a function or a class: its module's and its own."""
    return f"{target.__module__}.{target.__qualname__}"


def described_task(tid: Hashable, target: Callable[..., Any] | None) -> str:
    """For the log. `target`: None: it has travelled with its task."""
    return f"task {tid}" if target is None else f"task {tid} ({full_name(target)})"


def _formatted(error: BaseException, tb: TracebackType | None) -> str:
    """The traceback as text. Formatting may fail: it warns about some modules, and warnings may
    be errors."""
    import traceback

    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except BaseException as problem:
        why = _safely(str, problem)
        return f"{type(error).__name__} (its traceback could not be formatted: {why})\n"


def without_core_frames(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the task's own first frame on."""
    while tb is not None and tb.tb_frame.f_code.co_filename.endswith(".pxi"):
        tb = tb.tb_next
    return tb


def load_error(data: bytes) -> BaseException:
    """In the parent: the exception, with the worker's traceback as its cause."""
    try:
        type_name, message, text, why, pickled = pickle.loads(data)
    except Exception as problem:  # no worker of ours wrote that
        return decoding_error(problem)
    exception: object = None
    if pickled:
        try:
            exception = pickle.loads(pickled)
        except BaseException as problem:
            why = _described(problem)
        else:
            if not isinstance(exception, BaseException):
                why = f"it was unpickled as {type(exception).__name__}"
    if not isinstance(exception, BaseException):
        exception = UnpicklableError(type_name, message, why)
    # not by the class's own __setattr__, which may forbid it
    BaseException.__setattr__(exception, "__cause__", _remote_traceback(text))
    return exception


class Raised:
    """In the place of a result, among others: what a call has raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[bytes], Raised], tuple[bytes]]:
        return _received, (dump_error(self.error),)


def _received(data: bytes) -> Raised:
    return Raised(load_error(data))


def _remote_traceback(text: str) -> Exception:
    from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]

    return RemoteTraceback(text)  # type: ignore[no-any-return]


def without_frames(error: BaseException) -> BaseException:
    """In the parent: an error of a submission as the outcome of its task. Its traceback
    becomes text: the frames would keep what the callers hold, that outcome among it."""
    text = _formatted(error, error.__traceback__)
    BaseException.__setattr__(error, "__cause__", _remote_traceback(text))
    error.__context__ = None
    return error.with_traceback(None)


def not_stopping(error: BaseException) -> BaseException:
    """What an iterator raises for the exception of a task: one's StopIteration would end it."""
    if not isinstance(error, StopIteration):
        return error
    meant = RuntimeError("the task raised StopIteration")
    meant.__cause__ = error
    return meant


def of_arguments(error: BaseException) -> bool:
    """In the parent: whether what a submission has raised is its arguments' own. An Exception
    is; so is an exit, if it was raised while they were pickled and not by a signal handler
    elsewhere. A Ctrl-C is the user's."""
    if isinstance(error, (Exception, KeyboardInterrupt)):
        return isinstance(error, Exception)
    return hasattr(error, "raised_by_pickle")  # codec.pxi's mark


def encoding_error(error: Exception, result: object) -> ResultEncodingError:
    """In the worker: what a task fails with whose result cannot be pickled."""
    from ..errors import ResultEncodingError

    shown = f"of type {type(result).__qualname__}: {_safely(repr, result)[:LONGEST_SHORT_TEXT]}"
    try:
        made = ResultEncodingError(error, shown)
    except BaseException:  # it asks for the error's repr
        made = ResultEncodingError(_described(error), shown)
    made.__cause__ = error
    return made


def decoding_error(error: BaseException) -> ResultDecodingError:
    """In the parent: what a task fails with whose result cannot be unpickled."""
    made = ResultDecodingError(f"the task's result could not be unpickled: {_described(error)}")
    made.__cause__ = error
    return made


def shortened(error: BaseException) -> PoolError:
    """Where there is no room even for an error's text."""
    return PoolError(f"the error could not be sent: {_safely(str, error)[:LONGEST_SHORT_TEXT]}")


def exit_status(error: BaseException | None) -> int:
    """How a process that a task forked ends, if it comes back into the worker's loop."""
    status = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code & 0xFF
        elif error.code is not None:
            print(error.code, file=sys.stderr)
            status = 1
    elif error is not None:
        import traceback

        traceback.print_exception(error)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _safely(text_of: Callable[[object], str], value: object) -> str:
    try:
        return text_of(value)
    except BaseException:
        return "<unprintable>"


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_safely(str, error)}"


def _traceback_of(error: BaseException) -> TracebackType | None:
    """Not by the class's own __getattribute__."""
    return BaseException.__getattribute__(error, "__traceback__")  # type: ignore[no-any-return]
