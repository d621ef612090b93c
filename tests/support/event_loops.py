"""What tests of asyncio pools share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from celery_pool.aio import AsyncTaskPool
from support import DEADLINE


def new_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.fixture(scope="session")
def first_uvloop() -> None:
    """The first one makes a pipe that the process keeps."""
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(params=[asyncio.new_event_loop, new_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, first_uvloop: None) -> Callable[..., Any]:
    """Runs a coroutine function in a loop of that kind; nobody may hang."""

    def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(4 * DEADLINE):
                return await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(bounded())

    return run


def new_pool(limit: int | None = 8, processes: int = 2, **options: Any) -> AsyncTaskPool:
    options.setdefault("context", "fork")
    return AsyncTaskPool(limit, processes=processes, **options)


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)
