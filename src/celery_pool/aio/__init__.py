"""AsyncTaskPool: a TaskPool for asyncio, driven by the event loop itself.

No thread stands between: the loop watches the pool's descriptor
(:meth:`TaskPool.fileno`), and what it finds there it dispatches in its own thread.
While tasks are in flight it looks a few times by itself, once each round of the
loop, before it waits for the descriptor: the next result is often there already.
"""

from .api import AsyncTaskPool

AsyncTaskPool.__module__ = __name__

__all__ = ["AsyncTaskPool"]
