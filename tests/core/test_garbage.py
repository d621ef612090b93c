"""What a worker may do to the shared memory, and what its parent makes of it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

import pytest

import tasks
from bench import COMPLETION_TAIL, LOST, PAGE, RING, peek
from celery_pool import AttachError, WorkerLostError
from celery_pool._poolcore import Channel, layout
from guards import wait_until
from support import DEADLINE
from wire import parcel

# where src/_poolcore/layout.h puts what a worker can write
WORKER_EPOCH = 64
SUBMISSION_HEAD = 192
COMPLETION_RING = PAGE + RING


def poke(channel: Channel, offset: int, data: bytes) -> None:
    """Writes what a worker could write."""
    with mmap.mmap(channel.segment_fd, PAGE + 2 * RING) as segment:
        segment[offset : offset + len(data)] = data


def frame(size: int = 64, kind: int = 8, flags: int = 0, length: int = 0, tid: int = 1) -> bytes:
    return struct.pack("<IHHIIQQ", size, kind, flags, 0, length, tid, 0)


RESULT, ERROR, ACK, DEFINE, GIVE_BACK = 8, 9, 7, 3, 12
ARENA = PAGE + 2 * RING + layout()["shown"]

GARBAGE = {
    "tail beyond the ring": lambda c: poke(c, COMPLETION_TAIL, struct.pack("<Q", RING + 64)),
    "tail not on a line": lambda c: poke(c, COMPLETION_TAIL, struct.pack("<Q", 63)),
    "tail far away": lambda c: poke(c, COMPLETION_TAIL, struct.pack("<Q", 2**64 - 64)),
    "size 0": lambda c: publish(c, frame(size=0)),
    "size not of lines": lambda c: publish(c, frame(size=65)),
    "size beyond the tail": lambda c: publish(c, frame(size=128)),
    "size beyond the ring": lambda c: publish(c, frame(size=2 * RING), RING),
    "length beyond the frame": lambda c: publish(c, frame(length=33)),
    "length huge": lambda c: publish(c, frame(length=2**32 - 1)),
    "unknown kind": lambda c: publish(c, frame(kind=77)),
    "kind of the other ring": lambda c: publish(c, frame(kind=DEFINE)),
    "another tid": lambda c: publish(c, frame(tid=2)),
    "tid 0": lambda c: publish(c, frame(tid=0)),
    "acknowledgement not asked for": lambda c: publish(c, frame(kind=ACK)),
    "error without text": lambda c: publish(c, frame(kind=ERROR)),
    "extent too short": lambda c: publish(c, frame(flags=8, length=8)),
    "extent outside the arena": lambda c: publish(c, frame(flags=8, length=32) + parcel(0, 100)),
    "extent not on a page": lambda c: publish(
        c, frame(flags=8, length=32) + parcel(ARENA + 1, 100)
    ),
    "extent too long": lambda c: publish(c, frame(flags=8, length=32) + parcel(ARENA, 2**63)),
    "extent that overflows": lambda c: publish(
        c, frame(flags=8, length=32) + parcel(2**64 - PAGE, 2 * PAGE)
    ),
    "stream longer than its extent": lambda c: publish(
        c, frame(flags=8, length=32) + parcel(ARENA, 100, stream=101)
    ),
    "more buffers than there is room for": lambda c: publish(
        c, frame(flags=8, length=32) + parcel(ARENA, 100, count=13)
    ),
    "gives back what it never had": lambda c: publish(c, frame(kind=GIVE_BACK)),
}


def publish(channel: Channel, data: bytes, tail: int = 64) -> None:
    poke(channel, COMPLETION_RING, data)
    poke(channel, COMPLETION_TAIL, struct.pack("<Q", tail))


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_the_completion_ring(bench, name):
    """The worker is given up; its tasks live on; the parent is not hurt."""
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.same, (1,))
    write: Callable[[Channel], None] = GARBAGE[name]
    write(channel)
    assert b.core.collect() == 0
    assert channel.corrupt
    assert b.core.collect() == 0
    assert not r.ready()
    b.pool.apply_async(tasks.same, (2,))
    assert channel.load == 1  # it is not given anything any more
    assert b.core.recover(channel, LOST) == 0
    b.serve(b.channel())
    assert r.get(DEADLINE) == 1


def test_a_lie_about_its_sleep_keeps_no_worker_from_leaving(bench):
    """Its next park has the number that the parent believes to have rung already."""
    b = bench()
    channel = b.channel()
    poke(channel, WORKER_EPOCH, struct.pack("<Q", 2))
    r = b.pool.apply_async(tasks.same, (1,))  # rings
    poke(channel, WORKER_EPOCH, struct.pack("<Q", 0))
    worker = b.serve(channel)
    assert r.get(DEADLINE) == 1
    wait_until(lambda: peek(channel, WORKER_EPOCH) == 2, DEADLINE, "parked for the second time")
    b.core.stop_worker(channel)
    worker.result()


def test_a_result_nobody_asked_for(bench):
    b = bench()
    channel = b.channel()
    publish(channel, frame())
    assert b.core.collect() == 0
    assert channel.corrupt


def test_a_result_twice(bench):
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.nothing)
    publish(channel, frame())
    assert b.core.collect() == 1
    assert r.get(0) is None
    poke(channel, COMPLETION_RING + 64, frame())
    poke(channel, COMPLETION_TAIL, struct.pack("<Q", 128))
    assert b.core.collect() == 0
    assert channel.corrupt
    assert b.core.in_flight == 0


def test_a_result_that_is_no_pickle(bench):
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.nothing)
    publish(channel, frame(length=5) + b"xxxxx")
    assert b.core.collect() == 1
    with pytest.raises(Exception, match="could not be unpickled"):
        r.get(0)
    assert not channel.corrupt


def test_an_error_that_is_no_pickle(bench):
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.nothing)
    publish(channel, frame(kind=ERROR, length=5) + b"xxxxx")
    assert b.core.collect() == 1
    with pytest.raises(Exception, match="could not be unpickled"):
        r.get(0)


def test_a_long_result_that_is_not_there(bench):
    """An extent inside the arena where nothing was written."""
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.nothing)
    publish(channel, frame(flags=8, length=32) + parcel(ARENA, 1000))
    assert b.core.collect() == 1
    with pytest.raises(Exception, match="could not be unpickled"):
        r.get(0)


def test_a_long_result_that_no_memory_would_hold(bench):
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.nothing)
    publish(channel, frame(flags=8, length=32) + parcel(ARENA, 2**45))
    assert b.core.collect() == 0
    assert channel.corrupt
    assert b.core.recover(channel, LOST, False) == 1
    with pytest.raises(WorkerLostError):
        r.get(0)


@pytest.mark.parametrize("head", [2**40, 63, 2**64 - 64], ids=["ahead", "not on a line", "behind"])
def test_garbage_in_the_submission_ring(bench, head):
    b = bench()
    channel = b.channel()
    poke(channel, SUBMISSION_HEAD, struct.pack("<Q", head))
    results = [b.pool.apply_async(tasks.same, (i,)) for i in range(1000)]
    assert channel.corrupt
    assert b.core.recover(channel, LOST) == 0
    b.serve(b.channel())
    assert [r.get(DEADLINE) for r in results] == list(range(1000))


def test_a_worker_that_scribbles_over_claims(bench):
    """Claim words that say nothing sensible: lost, not run twice."""
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(tasks.same, (1,))
    with mmap.mmap(channel.segment_fd, PAGE + 2 * RING) as segment:
        ring = segment[PAGE : PAGE + RING]
        at = ring.index(struct.pack("<Q", r.tid << 3 | 1))
        segment[PAGE + at : PAGE + at + 8] = b"\xff" * 8
    assert b.core.recover(channel, LOST) == 1
    with pytest.raises(WorkerLostError):
        r.get(0)


def test_the_segment_cannot_be_resized(bench):
    """Else a worker could make its parent die of SIGBUS."""
    channel = bench().channel()
    for size in (0, PAGE, 2**47):
        with pytest.raises(OSError, match="not permitted|EPERM|denied"):
            os.ftruncate(channel.segment_fd, size)


@pytest.mark.parametrize("offset", [0, 8, 12])
def test_a_worker_of_another_build(bench, offset):
    b = bench()
    channel = b.channel()
    poke(channel, offset, b"\xee")
    with pytest.raises(AttachError, match="another build"):
        b.end(channel)
