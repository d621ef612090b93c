"""A compiled core without worker processes: the worker's loop runs in a thread."""

from __future__ import annotations

import logging
import mmap
import struct

from celery_pool import WorkerLostError
from celery_pool._poolcore import CallbacksIn, Channel, Core, PoolState, TaskPoolBase, WorkerEnd
from guards import wait_until
from support import DEADLINE, Background

PAGE = 4096
RING = 16 * 1024  # the smallest
COMPLETION_TAIL = 256  # where src/_poolcore/layout.h puts it

#: What becomes of tasks whose worker is lost.
LOST = (WorkerLostError, {"pid": 4711, "exitcode": -9, "out_of_memory": False})


def peek(channel: Channel, offset: int) -> int:
    """A word of the worker's segment."""
    with mmap.mmap(channel.segment_fd, PAGE + 2 * RING) as segment:
        return struct.unpack_from("<Q", segment, offset)[0]


class Facade(TaskPoolBase):
    reap_timeout = None


class Bench:
    """A core, its channels, and a facade to submit through."""

    def __init__(self, limit: int | None = None, callbacks_in: int = CallbacksIn.CALLER_ONLY):
        self.core = Core(limit, callbacks_in, False, logging.Logger("bench"), 0, RING)
        self.core.state = PoolState.RUNNING
        self.core.processes = 100
        self.pool = Facade()
        self.pool._core = self.core
        self.workers: list[tuple[Channel, Background]] = []

    def channel(self, is_open: bool = True) -> Channel:
        channel = Channel(RING, index=len(self.core.channels))
        channel.pid = 4711
        self.core.attach(channel)
        if is_open:
            self.core.ready(channel)
        return channel

    def end(self, channel: Channel, spin_ns: int = 0, yields: int = 10) -> WorkerEnd:
        return WorkerEnd(*self.core.worker_fds(), *channel.worker_fds(), spin_ns, yields)

    def serve(self, channel: Channel) -> Background:
        worker = Background(self.end(channel).serve)
        self.workers.append((channel, worker))
        return worker

    def stop(self) -> None:
        for channel, worker in self.workers:
            self.core.stop_worker(channel)
            wait_until(lambda w=worker: self.core.collect() < 0 or w.done, DEADLINE)
            worker.result()

    def reap_all(self) -> None:
        def body() -> None:
            while self.core.pending:
                self.pool.wait_for_result()

        Background(body).result()
