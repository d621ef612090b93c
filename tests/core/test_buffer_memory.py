"""Memory of large payloads: nobody sees the other's changes, it is used again, it comes back."""
# ruff: noqa: E402  # what follows importorskip needs numpy

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import buffer_tasks
import tasks
from celery_pool import ExceptionInfo, TaskExpired
from guards import descendants, wait_until
from segments import (
    SHOWN,
    argument_bytes,
    await_given_back,
    bytes_of,
    payload_bytes,
    result_bytes,
    unique_bytes,
)
from support import DEADLINE, Background, Gate
from usage import used

MIB = 1 << 20


def drained(pool):
    while pool.wait_for_result():
        pass


# ---- nobody sees the other's changes ----


def test_a_task_changes_its_argument(pool, start_method):
    p = pool(4, processes=2)
    data = buffer_tasks.array(3 * MIB)
    original = data.copy()
    total = int(original.sum())
    for _ in range(6):
        assert p.apply_async(buffer_tasks.overwrite, (data,)).get(DEADLINE) == total
    changed = p.apply_async(buffer_tasks.overwrite_and_return, (data,)).get(DEADLINE)
    assert (data == original).all()
    assert (changed == original + 1).all()


def test_both_sides_change_a_result(pool):
    p = pool(4, processes=1)
    found = p.apply_async(buffer_tasks.keep_and_return, (3 * MIB, 5)).get(DEADLINE)
    expected = buffer_tasks.array(3 * MIB, 5)
    assert buffer_tasks.is_shared(found)
    found[:] = 0
    assert p.apply_async(buffer_tasks.kept_checksums).get(DEADLINE) == buffer_tasks.checksum(
        expected
    )
    p.apply_async(buffer_tasks.keep_and_return, (3 * MIB, 6)).get(DEADLINE)
    assert not found.any()


def test_what_is_kept_stays_as_it_is(pool):
    """A result, a slice of one, a view of a view, an argument in a global, while the
    memory around them is used hundreds of times."""
    p = pool(8, processes=1)
    p.apply_async(buffer_tasks.keep, (buffer_tasks.array(2 * MIB, 1),)).get(DEADLINE)
    p.apply_async(buffer_tasks.keep, (buffer_tasks.array(2 * MIB, 2)[: 3 * MIB // 2],)).get(
        DEADLINE
    )
    found = p.apply_async(buffer_tasks.array, (2 * MIB, 3)).get(DEADLINE)
    piece = p.apply_async(buffer_tasks.array, (2 * MIB, 4)).get(DEADLINE)[MIB : MIB + 10]
    view = memoryview(
        p.apply_async(buffer_tasks.array, (2 * MIB, 5)).get(DEADLINE).view(np.uint32)[::7]
    )[100:200]
    one = p.apply_async(buffer_tasks.arrays, (3, MIB)).get(DEADLINE)[1]
    for seed in range(200):
        data = np.full(2 * MIB, seed, np.uint8)
        assert p.apply_async(tasks.same, (data,)).get(DEADLINE)[-1] == seed
    gc.collect()
    assert buffer_tasks.checksum(found) == buffer_tasks.checksum(buffer_tasks.array(2 * MIB, 3))
    assert piece.tolist() == buffer_tasks.array(2 * MIB, 4)[MIB : MIB + 10].tolist()
    assert view.tolist() == buffer_tasks.array(2 * MIB, 5).view(np.uint32)[::7][100:200].tolist()
    assert buffer_tasks.checksum(one) == buffer_tasks.checksum(buffer_tasks.array(MIB, 1))
    assert p.apply_async(buffer_tasks.kept_checksums).get(DEADLINE) == buffer_tasks.checksum(
        buffer_tasks.array(2 * MIB, 1), buffer_tasks.array(2 * MIB, 2)[: 3 * MIB // 2]
    )
    p.terminate()
    del p
    gc.collect()
    assert buffer_tasks.checksum(found) == buffer_tasks.checksum(buffer_tasks.array(2 * MIB, 3))


def test_where_arrays_live(pool):
    p = pool(4, processes=1)
    data = buffer_tasks.array(2 * MIB)
    assert p.apply_async(buffer_tasks.shared_here, (data,)).get(DEADLINE) == (True, True)
    found = p.apply_async(tasks.same, (data,)).get(DEADLINE)
    assert buffer_tasks.is_shared(found)
    assert found.ctypes.data % 64 == 0
    small = p.apply_async(tasks.same, (data[: MIB // 2],)).get(DEADLINE)
    assert not buffer_tasks.is_shared(small)


def test_copy(pool, start_method):
    """Nothing lives in shared memory, on either side."""
    p = pool(4, processes=1, copy=True)
    data = buffer_tasks.array(2 * MIB)
    assert p.apply_async(buffer_tasks.shared_here, (data,)).get(DEADLINE) == (False, True)
    found = p.apply_async(buffer_tasks.arrays, (3, MIB)).get(DEADLINE)
    assert [buffer_tasks.is_shared(a) for a in found] == [False] * 3
    await_given_back(p)


# ---- used again ----


@pytest.mark.parametrize("copy", [False, True])
def test_a_thousand_tasks_use_the_same_memory(pool, copy):
    p = pool(4, processes=2, copy=copy)
    data = buffer_tasks.array(MIB + 100)
    most = 0
    for _ in range(1000):
        p.apply_async(tasks.same, (data,))
        most = max(most, payload_bytes(p))
    drained(p)
    # four in flight, a few whose word of return is on its way, in both directions
    assert most < 40 * MIB
    assert buffer_tasks.segment_mappings() < 40
    assert p.apply_async(buffer_tasks.segment_mappings).get(DEADLINE) < 40


def test_results_of_tasks_that_wait_in_a_long_queue(pool, tmp_path):
    """What the parent gives back is heard of ahead of the tasks that are queued.

    A task begins only when the parent has seen all results but the latest eight: it cannot fall
    behind, however busy the machine is.
    """
    p = pool(400, processes=1)
    seen = tmp_path / "seen"
    seen.touch()
    most = 0

    def note(value, meta):
        nonlocal most
        most = max(most, result_bytes(p))
        with seen.open("ab") as file:
            file.write(b".")

    for i in range(800):
        p.apply_async(buffer_tasks.zeros_in_turn, (str(seen), i - 8, MIB), callbacks=note)
    drained(p)
    assert MIB < most < 20 * MIB


def test_many_sizes(pool):
    p = pool(4, processes=1)
    chance = random.Random(3)
    for _ in range(150):
        size = int(2 ** chance.uniform(14, 23))
        assert len(p.apply_async(tasks.same, (np.ones(size, np.uint8),)).get(DEADLINE)) == size
    await_given_back(p)


# ---- given back ----


def test_all_of_it_comes_back_at_rest(pool, start_method):
    p = pool(8, processes=2)
    for _ in range(20):
        p.apply_async(tasks.same, (buffer_tasks.array(4 * MIB),))
    drained(p)
    assert payload_bytes(p) > 4 * MIB
    await_given_back(p)
    wait_until(lambda: used(0.1) < 0.001, DEADLINE, "rest")
    assert used(1.0) < 0.006
    # the kept mapping of a worker goes as well, as soon as somebody looks
    assert p.apply_async(tasks.same, (np.ones(MIB),)).get(DEADLINE).sum() == MIB


def test_results_that_nobody_fetches(pool):
    p = pool(8, processes=2)
    for _ in range(30):
        p.apply_async(buffer_tasks.array, (4 * MIB,)).wait(DEADLINE)
    await_given_back(p)


def test_results_that_are_fetched_late(pool):
    p = pool(None, processes=1)
    results = [p.apply_async(buffer_tasks.array, (2 * MIB, n)) for n in range(10)]
    results[-1].wait(DEADLINE)
    for n, r in enumerate(results):
        assert buffer_tasks.checksum(r.get(0)) == buffer_tasks.checksum(
            buffer_tasks.array(2 * MIB, n)
        )
    assert result_bytes(p) >= 20 * MIB  # they hold their results
    del r
    results.clear()
    await_given_back(p)


def test_tasks_that_never_start(pool, tmp_path):
    gate = Gate(tmp_path)
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    data = buffer_tasks.array(4 * MIB)
    cancelled = [p.apply_async(tasks.nothing, (data,)) for _ in range(5)]
    returned = [p.apply_async(tasks.nothing, (data,)) for _ in range(5)]
    assert argument_bytes(p) >= 40 * MIB
    expired = [p.apply_async(tasks.nothing, (data,), expires=0.05) for _ in range(5)]
    assert all(r.cancel() for r in cancelled)
    for r in expired:
        with pytest.raises(TaskExpired):
            r.get(DEADLINE)
    for r in returned:
        p.on_return(ExceptionInfo(ValueError("by hand")), r.tid, [], [], {})
    await_given_back(p)
    gate.open()
    first.get(DEADLINE)


def test_tasks_that_a_full_ring_had_no_room_for(pool, tmp_path):
    gate = Gate(tmp_path)
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    last = None
    while not p._core.backlog:
        last = p.apply_async(tasks.nothing)
    assert last.cancel()
    for _ in range(5):
        r = p.apply_async(tasks.nothing, (buffer_tasks.array(4 * MIB),))
        assert p._core.backlog == 1
        assert r.cancel()
    await_given_back(p)
    gate.open()
    first.get(DEADLINE)


def test_on_return_by_hand_while_it_runs(pool, tmp_path):
    gate = Gate(tmp_path)
    p = pool(2, processes=1)
    r = p.apply_async(buffer_tasks.pass_gate_with, (gate.path, buffer_tasks.array(4 * MIB)))
    gate.await_tasks()
    p.on_return("instead", r.tid, [], [], {})
    assert r.get(DEADLINE) == "instead"
    gate.open()
    p.apply_async(tasks.nothing).get(DEADLINE)
    await_given_back(p)


@pytest.mark.parametrize("how", ["terminate", "close", "drain"])
def test_the_end_of_the_pool(pool, tmp_path, how):
    """A pool that is still there afterwards holds nothing but what it shows."""
    gate = Gate(tmp_path)
    p = pool(None, processes=2)
    data = buffer_tasks.array(4 * MIB)
    for _ in range(4):
        p.apply_async(tasks.same, (data,)).get(DEADLINE)
    results = [p.apply_async(buffer_tasks.compute_at_gate, (gate.path, data)) for _ in range(4)]
    gate.await_tasks(2)
    if how == "close":
        gate.open()
        p.close()
        p.join()
    else:
        getattr(p, how)(*([0.1] if how == "drain" else []))
    for r in results:
        r.wait(DEADLINE)
    wait_until(lambda: bytes_of(p._core.segment_fd) <= SHOWN, DEADLINE, "an empty segment")


# ---- forks ----


def in_child(function):
    """The status of a child that exits with the truth of function()."""
    child = os.fork()
    if child == 0:
        status = 2
        with contextlib.suppress(BaseException):
            status = 0 if function() else 1
        os._exit(status)
    return child


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_sees_what_was_there(pool, tmp_path):
    p = pool(4, processes=1)
    gate = Gate(tmp_path)
    found = p.apply_async(buffer_tasks.array, (2 * MIB, 1)).get(DEADLINE)
    expected = buffer_tasks.checksum(buffer_tasks.array(2 * MIB, 1))

    def child_looks():
        tasks.wait_for_file(gate.path)
        return buffer_tasks.checksum(found) == expected

    child = in_child(child_looks)
    del found
    for seed in range(30):
        p.apply_async(buffer_tasks.array, (2 * MIB, seed + 2)).get(DEADLINE)
    p.terminate()
    gate.open()
    assert status_of(child) == 0


def test_forks_beside_results_that_come_and_go(pool, tmp_path):
    """Other threads open and drop results at any point of a fork."""
    p = pool(8, processes=2)
    stop = threading.Event()
    slots = [None] * 4

    def come_and_go(n):
        while not stop.is_set():
            slots[n] = p.apply_async(np.full, (2 * MIB, n + 1, np.uint8)).get(DEADLINE)

    def child_looks():
        mine = [(n, a) for n, a in enumerate(slots) if a is not None]
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            for n, a in mine:
                if not (a == n + 1).all():
                    return False
        return True

    threads = [Background(come_and_go, n) for n in range(4)]
    try:
        for _ in range(20):
            assert status_of(in_child(child_looks)) == 0
    finally:
        stop.set()
    for thread in threads:
        thread.result()


def test_a_child_cannot_open_a_result(pool):
    """It has no descriptor for it, and another file may have got its number."""
    p = pool(4, processes=1)
    r = p.apply_async(tasks.zeros, (2 * MIB,))
    r.wait(DEADLINE)

    def child_gets():
        from celery_pool import WrongProcess

        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(30)]
        try:
            r.get(0)
        except WrongProcess:
            return bool(others)
        return False

    assert status_of(in_child(child_gets)) == 0
    assert r.get(0) == bytes(2 * MIB)


def test_a_task_leaves_a_child_with_its_argument(pool, tmp_path):
    p = pool(4, processes=1)
    gate, report = Gate(tmp_path), tmp_path / "report"
    data = buffer_tasks.array(2 * MIB)
    p.apply_async(buffer_tasks.fork_with, (data, gate.path, str(report))).get(DEADLINE)
    for seed in range(30):
        p.apply_async(tasks.nothing, (buffer_tasks.array(2 * MIB, seed + 2),)).get(DEADLINE)
    gate.open()
    wait_until(report.exists, DEADLINE)
    assert [int(report.read_text())] == buffer_tasks.checksum(data)


@pytest.mark.parametrize("where", ["parent", "worker"])
def test_forks_do_not_use_up_the_memory(pool, where):
    """What children may look at is not used again; then buffers are copied."""
    p = pool(4, processes=1)
    data = buffer_tasks.array(8 * MIB)
    for _ in range(40):
        if where == "worker":
            assert p.apply_async(buffer_tasks.fork_and_wait, (data,)).get(DEADLINE) == 0
        else:
            found = p.apply_async(tasks.same, (data,)).get(DEADLINE)
            assert status_of(in_child(lambda: (found == data).all())) == 0
    assert payload_bytes(p) < 200 * MIB


# ---- threads ----


def test_threads(pool):
    p = pool(16, processes=2)
    end = time.monotonic() + 1.5
    stop = threading.Event()

    def body(number):
        chance = random.Random(number)
        kept = []
        while time.monotonic() < end or not kept:
            size, seed = int(2 ** chance.uniform(10, 22)), chance.randrange(256)
            data = np.full(size, seed, np.uint8)
            found = p.apply_async(buffer_tasks.overwrite_and_return, (data,)).get(DEADLINE)
            assert len(found) == size and (found == (seed + 1) % 256).all()
            assert (data == seed).all()
            kept.append((found, (seed + 1) % 256))
            if len(kept) > 8:
                array, value = kept.pop(chance.randrange(len(kept)))
                assert (array == value).all()
        return len(kept)

    def collect_garbage():
        while not stop.is_set():
            gc.collect()

    garbage = Background(collect_garbage)
    try:
        for n in [Background(body, n) for n in range(8)]:
            assert n.result() > 0
    finally:
        stop.set()
        garbage.result()
    await_given_back(p)


# ---- what it costs ----


@pytest.mark.timeout(120)
def test_peak_memory_of_a_large_array(pool, tmp_path):
    """The object, and one copy of it for both processes together."""
    size = 256 * MIB
    p = pool(2, processes=1)
    p.apply_async(buffer_tasks.checksum, (np.ones(10),)).get(DEADLINE)
    gate = Gate(tmp_path)
    data = np.ones(size, np.uint8)
    family = [os.getpid(), *descendants()]
    before = unique_bytes(family)
    r = p.apply_async(buffer_tasks.sum_at_gate, (gate.path, data))
    gate.await_tasks()
    more = max(unique_bytes(family) - before, argument_bytes(p))
    gate.open()
    assert r.get(60) == size
    assert size <= more <= 1.1 * size
