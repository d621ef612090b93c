"""What an event loop waits for that takes a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..facade_side import fail, succeed

T = TypeVar("T")


async def in_thread(
    function: Callable[..., T],
    *args: Any,
    abandon: bool = False,
    hurry: Callable[[], object] | None = None,
) -> T:
    """Calls it in a thread of its own: the loop's default executor may be busy.

    Cancelled, it waits for the end nevertheless, unless `abandon`; `hurry` is called then.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            result = function(*args)
        except BaseException as error:
            tell(fail, error)
        else:
            tell(succeed, result)

    def tell(how: Callable[[Any, asyncio.Future[T]], None], outcome: Any) -> None:
        try:
            loop.call_soon_threadsafe(how, outcome, future)
        except RuntimeError:  # the loop was closed meanwhile
            if not loop.is_closed():
                raise

    threading.Thread(
        target=body, name=f"AsyncTaskPool-{function.__name__.strip('_')}", daemon=True
    ).start()
    if abandon:
        return await future
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if hurry is not None and cancelled is None:
                hurry()
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # it is nobody's now
        raise cancelled
    return future.result()
