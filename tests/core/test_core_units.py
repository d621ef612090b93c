"""The compiled core without worker processes: the worker's loop runs in a thread."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import threading

import pytest

import tasks
from bench import COMPLETION_TAIL, LOST, PAGE, RING, Bench, peek
from celery_pool import PoolNotRunning, PoolTerminated, WorkerLostError, _poolcore
from celery_pool._poolcore import CallbacksIn, Channel, PoolState, WorkerEnd
from guards import wait_until
from support import DEADLINE, Background, Calls

# ---- road from submission to callback ----


def test_a_task_there_and_back(bench):
    b = bench()
    channel = b.channel()
    b.serve(channel)
    calls = Calls()
    r = b.pool.apply_async(tasks.same, (5,), callbacks=calls, meta="m")
    assert Background(b.pool.wait_for_result).result() == 1
    assert calls.calls == [(5, "m")]
    assert r.get(DEADLINE) == 5
    assert r.worker_pid == 4711


def test_nothing_is_lost_over_many_rounds(bench):
    """Frames of all sizes, so that both rings wrap everywhere."""
    b = bench(limit=64)
    b.serve(b.channel())
    b.serve(b.channel())
    calls = Calls()

    def submit():
        for i in range(3000):
            data = bytes([i % 256]) * (i * 7 % 700)
            b.pool.apply_async(tasks.same, (data,), callbacks=calls, meta=(i, data))
        b.reap_all()

    Background(submit).result(40)
    assert sorted(meta[0] for _, meta in calls.calls) == list(range(3000))
    assert all(value == meta[1] for value, meta in calls.calls)


def test_both_sides_park_every_time(bench):
    """Ping-pong without spinning: each round needs two wake-ups."""
    b = bench()
    b.core.set_patience(0, 0)
    channel = b.channel()
    b.workers.append((channel, Background(b.end(channel, 0, 0).serve)))

    def play():
        for i in range(2000):
            assert b.pool.apply_async(tasks.same, (i,)).get(DEADLINE) == i

    Background(play).result(40)


def test_the_worker_waits_for_room(bench):
    """Nobody collects: the completion ring fills, the worker parks, and goes on later."""
    b = bench()
    channel = b.channel()
    b.serve(channel)
    results = [b.pool.apply_async(tasks.zeros, (1000,)) for _ in range(100)]
    wait_until(lambda: peek(channel, COMPLETION_TAIL) > RING * 3 // 4, DEADLINE)
    assert peek(channel, COMPLETION_TAIL) <= RING
    b.reap_all()
    assert all(r.get(0) == bytes(1000) for r in results)


def test_the_longest_frame_always_finds_room(bench):
    """A quarter of the ring, wherever its tail stands."""
    b = bench()
    b.serve(b.channel())
    longest = RING // 4 - 32 - 100
    for i in range(60):
        b.pool.apply_async(tasks.zeros, (i * 64,)).get(DEADLINE)
        data = bytes(longest)
        assert b.pool.apply_async(tasks.same, (data,)).get(DEADLINE) == data


def test_payloads_beside_the_ring(bench):
    b = bench()
    b.serve(b.channel())
    data = tasks.pattern(100_000)
    for _ in range(5):
        assert b.pool.apply_async(tasks.same, (data,)).get(DEADLINE) == data


# ---- placing ----


def test_the_backlog_keeps_what_no_ring_has_room_for(bench):
    b = bench()
    channel = b.channel()
    results = [b.pool.apply_async(tasks.same, (i,)) for i in range(1000)]
    assert 0 < channel.load < 1000
    assert b.core.backlog == 1000 - channel.load
    assert b.core.in_flight == 1000
    b.serve(channel)
    assert [r.get(DEADLINE) for r in results] == list(range(1000))
    assert b.core.backlog == 0


def test_no_worker_no_task(bench):
    """Jobs wait until the first worker opens."""
    b = bench()
    channel = b.channel(is_open=False)
    r = b.pool.apply_async(tasks.same, (1,))
    assert b.core.backlog == 1
    assert channel.load == 0
    b.core.ready(channel)
    assert (b.core.backlog, channel.load) == (0, 1)
    b.serve(channel)
    assert r.get(DEADLINE) == 1


def test_the_least_loaded_worker_gets_the_next(bench):
    b = bench()
    one, two = b.channel(), b.channel()
    for _ in range(10):
        b.pool.apply_async(tasks.nothing)
    assert (one.load, two.load) == (5, 5)
    b.serve(one)
    b.serve(two)
    b.reap_all()
    assert (one.load, two.load) == (0, 0)


def warmed(b: Bench, count: int) -> dict[Channel, WorkerEnd]:
    """So many workers; tasks that took no time have gone to the first."""
    ends = {channel: b.end(channel) for channel in [b.channel() for _ in range(count)]}
    for _ in range(3):
        b.pool.apply_async(tasks.nothing)
        complete(b, ends)
    return ends


def complete(b: Bench, ends: dict[Channel, WorkerEnd]) -> None:
    for end in ends.values():
        end.complete_all()
    b.core.collect()


def test_short_tasks_queue_at_the_warm_worker(bench):
    b = bench()
    ends = warmed(b, 3)
    for _ in range(18):
        b.pool.apply_async(tasks.nothing)
    # of the others it is not known that they take no time there, too
    assert [c.load for c in ends] == [16, 1, 1]
    complete(b, ends)
    assert b.core.in_flight == 0


def test_each_worker_has_its_share_of_few_tasks(bench):
    b = bench(limit=6)
    b.core.processes = 3
    ends = warmed(b, 3)
    for _ in range(5):
        b.pool.apply_async(tasks.nothing)
    assert [c.load for c in ends] == [2, 2, 1]
    complete(b, ends)
    assert b.core.in_flight == 0


def test_greeting(bench):
    b = bench()
    channel = b.channel(is_open=False)
    end = b.end(channel)
    assert not channel.greeted
    end.hello()
    b.core.collect()
    assert channel.greeted
    end.start_failed(b"why")
    b.core.collect()
    assert channel.start_error == b"why"


def test_counters(bench):
    b = bench(limit=2)
    channel = b.channel()
    first, second = (b.pool.apply_async(tasks.same, (i,), callbacks=Calls()) for i in range(2))
    assert b.pool.full()
    assert (b.core.in_flight, b.core.waiting_callbacks, b.core.pending) == (2, 0, 2)
    b.serve(channel)
    wait_until(lambda: b.core.collect() or b.core.waiting_callbacks == 2, DEADLINE)
    assert (b.core.in_flight, b.core.waiting_callbacks, b.core.pending) == (0, 2, 2)
    assert not b.pool.full()
    assert b.pool.reap() == 2
    assert (b.core.in_flight, b.core.waiting_callbacks, b.core.reaped) == (0, 0, 2)
    assert (first.tid, second.tid) == (1, 2)
    assert b.core.last_tid == 2


def test_states(bench):
    b = bench()
    b.core.state = PoolState.IDLE
    with pytest.raises(PoolNotRunning):
        b.pool.apply_async(tasks.nothing)
    names = []
    for state in PoolState:
        b.core.state = state
        names.append(b.core.state_name())
    assert names[:5] == ["not running", "starting", "running", "closed", "terminated"]
    assert len(set(names)) == len(names)


# ---- death ----


gate = threading.Event()
at_gate = threading.Event()


def stand_at_gate() -> str:
    at_gate.set()
    gate.wait(DEADLINE)
    return "late"


@pytest.fixture
def fresh_gate():
    gate.clear()
    at_gate.clear()
    yield gate
    gate.set()


def test_recovery_gives_what_was_not_started_to_another(bench):
    b = bench()
    dead = b.channel()
    results = [b.pool.apply_async(tasks.same, (i,)) for i in range(500)]
    alive = b.channel()
    assert b.core.recover(dead, LOST) == 0
    assert alive.load > 0
    assert alive.load + b.core.backlog == 500
    assert dead not in b.core.channels
    b.serve(alive)
    assert [r.get(DEADLINE) for r in results] == list(range(500))


def test_recovery_keeps_the_order(bench):
    b = bench()
    dead = b.channel()
    calls = Calls()
    for i in range(1000):
        b.pool.apply_async(tasks.same, (i,), callbacks=calls)
    b.core.recover(dead, LOST)
    assert b.core.backlog == 1000
    b.serve(b.channel())
    b.reap_all()
    assert calls.values == list(range(1000))


def test_recovery_fails_what_was_claimed(bench, fresh_gate):
    b = bench()
    dead = b.channel()
    worker = Background(b.end(dead).serve)
    acks: list[int] = []
    claimed = b.pool.apply_async(stand_at_gate, on_acknowledge=lambda: acks.append(1))
    behind = [
        b.pool.apply_async(tasks.same, (i,), on_acknowledge=lambda: acks.append(2))
        for i in range(3)
    ]
    assert at_gate.wait(DEADLINE)
    assert b.core.recover(dead, LOST) == 1
    b.pool.reap()
    with pytest.raises(WorkerLostError) as caught:
        claimed.get(0)
    assert (caught.value.pid, caught.value.exitcode, caught.value.tid) == (4711, -9, claimed.tid)
    assert acks == [1]
    assert b.core.lost == 1
    assert not any(r.ready() for r in behind)
    b.serve(b.channel())
    assert [r.get(DEADLINE) for r in behind] == [0, 1, 2]
    assert acks == [1, 2, 2, 2]
    fresh_gate.set()  # the dead one was not: what it publishes now reaches nobody
    b.core.stop_worker(dead)
    worker.result()
    b.core.collect()
    assert not claimed.successful()


def test_recovery_without_giving_back(bench):
    """terminate(): everything the worker had ends with the same reason."""
    b = bench()
    channel = b.channel()
    bad = Calls()
    results = [b.pool.apply_async(tasks.nothing, errbacks=bad) for _ in range(700)]
    given = channel.load
    assert b.core.recover(channel, (PoolTerminated, {"message": "over"}), False) == given
    b.core.fail_rest((PoolTerminated, {"message": "over"}))
    b.pool.reap()
    assert len(bad) == 700
    assert all(isinstance(exc, PoolTerminated) for exc in bad.values)
    assert [exc.tid for exc in bad.values] == [r.tid for r in results]
    assert b.core.lost == 0


def test_recovery_drains_what_was_published(bench):
    b = bench()
    channel = b.channel()
    worker = b.serve(channel)
    results = [b.pool.apply_async(tasks.same, (i,)) for i in range(10)]
    b.core.stop_worker(channel)
    worker.result()
    b.workers.clear()
    assert b.core.recover(channel, LOST) == 0
    assert [r.get(0) for r in results] == list(range(10))


# ---- claims ----


def test_a_task_taken_back_before_it_started(bench):
    """Revoked in the ring: the worker passes over it."""
    b = bench()
    channel = b.channel()
    log = Calls()
    results = [b.pool.apply_async(tasks.same, (i,), callbacks=log) for i in range(5)]
    assert b.core.take_out(results[2].tid, "taken")
    assert channel.load == 4
    b.serve(channel)
    b.reap_all()
    assert log.values == [0, 1, 3, 4]
    assert results[2].get(0) == "taken"
    assert not b.core.take_out(results[2].tid, "again")
    assert not b.core.take_out(99, "unknown")


def test_taking_out_many(bench):
    b = bench()
    channel = b.channel()
    results = [b.pool.apply_async(tasks.same, (i,)) for i in range(2000)]
    for r in results[::2]:
        assert b.core.take_out(r.tid, None)
    assert b.core.in_flight == 1000
    b.serve(channel)
    assert [r.get(DEADLINE) for r in results[1::2]] == list(range(1, 2000, 2))
    assert b.core.in_flight == 0


def test_worker_pid_follows_the_claim(bench, fresh_gate):
    b = bench()
    channel = b.channel()
    r = b.pool.apply_async(stand_at_gate)
    assert r.worker_pid is None
    b.serve(channel)
    assert at_gate.wait(DEADLINE)
    assert r.worker_pid == 4711
    fresh_gate.set()
    assert r.get(DEADLINE) == "late"


# ---- waiting ----


def test_wait_drained(bench, fresh_gate):
    b = bench()
    b.serve(b.channel())
    assert b.core.wait_drained(0)
    b.pool.apply_async(stand_at_gate)
    assert not b.core.wait_drained(0.02)
    waiter = Background(b.core.wait_drained, None)
    fresh_gate.set()
    assert waiter.result()


def test_the_reaper_loop(bench):
    b = bench(callbacks_in=CallbacksIn.ANY_THREAD)
    b.serve(b.channel())
    reaper = Background(b.core.reaper_loop)
    calls = Calls()
    for i in range(200):
        b.pool.apply_async(tasks.same, (i,), callbacks=calls)
    wait_until(lambda: len(calls) == 200, DEADLINE)
    b.core.stop_reaper()
    reaper.result()
    assert sorted(calls.values) == list(range(200))


def test_a_leader_sees_a_worker_that_comes_while_it_waits(bench):
    """The set of rings changes under it."""
    b = bench()
    r = b.pool.apply_async(tasks.same, (1,))
    getter = Background(r.get, DEADLINE)
    b.serve(b.channel())
    assert getter.result(5) == 1


def test_a_leader_survives_the_end_of_a_worker(bench):
    """The rings that it looks at stay mapped."""
    b = bench()
    b.core.set_patience(50_000_000, 1000)
    first = b.channel()
    r = b.pool.apply_async(tasks.same, (1,))
    getter = Background(r.get, DEADLINE)
    b.core.recover(first, LOST)
    del first
    b.serve(b.channel())
    assert getter.result(5) == 1


# ---- arguments ----


@pytest.mark.parametrize("size", [0, 1, 4096, 8192, 2**14 - 1, 2**14 + 64, 3 * 2**14, 2**31])
def test_ring_sizes_refused(size):
    with pytest.raises((ValueError, OverflowError)):
        Channel(size)


@pytest.mark.parametrize("size", [2**14, 2**16, 2**20])
def test_ring_sizes(size):
    assert Channel(size).load == 0


def test_descriptors_are_not_inheritable(bench):
    b = bench()
    channel = b.channel()
    for fd in b.core.owned_fds() | channel.owned_fds():
        assert not os.get_inheritable(fd)


def test_everything_is_freed():
    """Counted in a debug build; the leak guard looks at descriptors and mappings."""
    before = _poolcore.debug_counters()
    b = Bench()
    b.serve(b.channel())
    r = b.pool.apply_async(tasks.same, (1,))
    r.get(DEADLINE)
    b.stop()
    del b, r
    assert _poolcore.debug_counters() == before


def test_jobs_that_never_ended_are_freed_with_their_pool():
    before = _poolcore.debug_counters()
    b = Bench()
    b.channel()
    for _ in range(1000):
        b.pool.apply_async(tasks.same, (1,), callbacks=Calls())
    b.core.recover(b.core.channels[0], (PoolTerminated, {"message": "over"}), False)
    b.core.fail_rest((PoolTerminated, {"message": "over"}))
    b.pool.reap()
    del b
    assert _poolcore.debug_counters() == before


def test_pickles_are_of_protocol_five(bench):
    """What lies in the ring is a plain pickle of the arguments, without the tid."""
    b = bench()
    channel = b.channel()
    b.pool.apply_async(tasks.same, (["needle"],))
    with mmap.mmap(channel.segment_fd, PAGE + 2 * RING) as segment:
        ring = segment[PAGE : PAGE + RING]
    assert pickle.dumps((["needle"],), 5) in ring
    b.core.recover(channel, (PoolTerminated, {"message": "over"}), False)
    b.core.fail_rest((PoolTerminated, {"message": "over"}))
    b.pool.reap()
    assert ctypes.sizeof(ctypes.c_void_p) == 8
