"""A process pool in asyncio: awaited tasks, a stream of results, a task that is killed.

python examples/asyncio_pool.py
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from celery_pool.aio import AsyncTaskPool


def word_count(text: str) -> int:  # the work, done in another process
    return len(text.split())


def never_ends() -> None:
    while True:
        time.sleep(1)


async def main() -> None:
    async with AsyncTaskPool(limit=64, processes=2) as pool:
        # one
        print("one:", await pool.submit(word_count, "to be or not to be"))

        # many at once; with 64 in flight, the next one waits for its turn
        texts = ["word " * i for i in range(1000)]
        async with asyncio.TaskGroup() as group:
            counts = [group.create_task(pool.submit(word_count, text)) for text in texts]
        print("many:", sum(task.result() for task in counts))

        # as they come, from a source of any length
        total = 0
        async for count in pool.imap_unordered(word_count, (text for text in texts)):
            total += count
        print("stream:", total)

        # leaving it early takes the rest back
        async with contextlib.aclosing(pool.imap_unordered(word_count, texts)) as stream:
            async for count in stream:
                if count > 10:
                    break
        print("left early:", count > 10)

        # cancelling the one who waits kills the task
        try:
            async with asyncio.timeout(0.1):
                await pool.submit(never_ends)
        except TimeoutError:
            print("killed: a task that never ends")

        # a failure is raised where it is awaited
        try:
            await pool.submit(word_count, None)
        except AttributeError as error:
            print("failed:", error)


if __name__ == "__main__":
    asyncio.run(main())
