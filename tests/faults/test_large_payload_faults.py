"""Faults and large payloads: one outcome a task, the memory comes back, the pool goes on."""
# ruff: noqa: E402  # what follows importorskip needs numpy

from __future__ import annotations

import errno
import os
import signal
import textwrap

import pytest

np = pytest.importorskip("numpy")

import buffer_tasks
import tasks
from celery_pool import TaskTerminated, TimeLimitExceeded, WorkerLostError
from guards import wait_until
from segments import await_given_back, result_bytes
from support import DEADLINE, Gate, is_gone, run_script

MIB = 1 << 20
SIZE = 8 * MIB


def goes_on(pool):
    data = buffer_tasks.array(SIZE, 99)
    assert pool.apply_async(buffer_tasks.checksum, (data,)).get(DEADLINE) == buffer_tasks.checksum(
        data
    )
    assert (pool.apply_async(tasks.same, (data,)).get(DEADLINE) == data).all()
    await_given_back(pool)
    assert pool._core.bytes_in_flight == 0


def at_the_gate(pool, gate, place):
    """(the task, what it gives if it is let through)"""
    data = buffer_tasks.array(SIZE)
    if place == "reading":
        return pool.apply_async(np.asarray, (buffer_tasks.SlowToRead(gate.path, data),))
    if place == "running":
        return pool.apply_async(buffer_tasks.pass_gate_with, (gate.path, data))
    return pool.apply_async(buffer_tasks.write_slowly, (gate.path, SIZE))


@pytest.mark.parametrize("place", ["reading", "running", "writing"])
@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP, SIGKILL", "SIGSTOP, SIGCONT", "none"])
def test_fault(pool, tmp_path, place, fault):
    p = pool(None, processes=2)
    gate = Gate(tmp_path)
    victim = at_the_gate(p, gate, place)
    (pid,) = gate.await_tasks()
    data = buffer_tasks.array(SIZE, 3)
    others = [p.apply_async(tasks.same, (data,)) for _ in range(6)]
    for name in fault.split(", "):
        if name != "none":
            os.kill(pid, signal.Signals[name])
    if fault.endswith("SIGKILL"):
        with pytest.raises(WorkerLostError) as caught:
            victim.get(DEADLINE)
        assert caught.value.pid == pid
    else:
        gate.open()
        assert (np.asarray(victim.get(DEADLINE)) == buffer_tasks.array(SIZE)).all()
    assert all((r.get(DEADLINE) == data).all() for r in others)
    assert p.statistics().lost == (1 if fault.endswith("SIGKILL") else 0)
    del victim, others
    goes_on(p)


def test_killed_before_it_claims(pool, tmp_path):
    """What it was given goes to the next worker, without being copied again."""
    p = pool(None, processes=1)
    gate = Gate(tmp_path)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    (pid,) = gate.await_tasks()
    data = buffer_tasks.array(SIZE, 4)
    waiting = [p.apply_async(tasks.same, (data,)) for _ in range(4)]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        first.get(DEADLINE)
    assert all((r.get(DEADLINE) == data).all() for r in waiting)
    del waiting
    goes_on(p)


def test_killed_with_results_not_collected(pool):
    """What it had published counts, and can be read after its end."""
    p = pool(None, processes=1, callbacks_in="caller")
    results = [p.apply_async(buffer_tasks.array, (SIZE, n)) for n in range(5)]
    wait_until(lambda: result_bytes(p) >= 5 * SIZE, DEADLINE, "five results")
    (pid,) = p.get_worker_pids()
    results[-1].wait(DEADLINE)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: p.get_worker_pids() not in ([], [pid]), DEADLINE, "another worker")
    for n, r in enumerate(results):
        assert (r.get(DEADLINE) == buffer_tasks.array(SIZE, n)).all()
    del r
    results.clear()
    goes_on(p)


def test_views_of_a_dead_worker(pool):
    p = pool(None, processes=1)
    found = p.apply_async(buffer_tasks.array, (SIZE, 1)).get(DEADLINE)
    (pid,) = p.get_worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: p.get_worker_pids() not in ([], [pid]), DEADLINE, "another worker")
    goes_on(p)
    found[0] = 1
    assert (found[1:] == buffer_tasks.array(SIZE, 1)[1:]).all()


def test_a_worker_that_keeps_its_argument_is_killed(pool):
    p = pool(None, processes=1)
    for n in range(4):
        p.apply_async(buffer_tasks.keep, (buffer_tasks.array(SIZE, n),)).get(DEADLINE)
    (pid,) = p.get_worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: p.get_worker_pids() not in ([], [pid]), DEADLINE, "another worker")
    goes_on(p)


def test_limits_and_recycling(pool):
    p = pool(None, processes=1, maxtasksperchild=3)
    data = buffer_tasks.array(SIZE)
    late = p.apply_async(buffer_tasks.sleep_with, (data, 60), timeout=0.1)
    results = [p.apply_async(tasks.same, (data,)) for _ in range(10)]
    assert type(failure_of(late)) is TimeLimitExceeded
    assert all((r.get(DEADLINE) == data).all() for r in results)
    del results, late
    goes_on(p)


def failure_of(result):
    with pytest.raises(Exception) as caught:
        result.get(DEADLINE)
    return caught.value


def test_terminated_one_by_one(pool, tmp_path):
    p = pool(None, processes=2)
    gate = Gate(tmp_path)
    data = buffer_tasks.array(SIZE)
    results = [p.apply_async(buffer_tasks.pass_gate_with, (gate.path, data)) for _ in range(6)]
    gate.await_tasks(2)
    for r in results:
        assert r.terminate(signal.SIGKILL)
    for r in results:
        assert type(failure_of(r)) is TaskTerminated
    goes_on(p)


def test_the_parent_is_killed(tmp_path):
    """Workers go, and with them the last of the memory: it has no name."""
    done = run_script(
        textwrap.dedent(
            """
            import os, signal, sys
            import buffer_tasks, tasks
            from celery_pool import TaskPool
            p = TaskPool(8, processes=2, context="fork")
            p.run()
            data = buffer_tasks.array(8 << 20)
            kept = [p.apply_async(tasks.same, (data,)).get(20) for _ in range(4)]
            for _ in range(8):
                p.apply_async(buffer_tasks.compute_at_gate, (sys.argv[1], data))
            print(*p.get_worker_pids(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """
        ),
        str(tmp_path / "gate"),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 2
    wait_until(lambda: all(map(is_gone, pids)), DEADLINE, "workers gone")
    assert not [name for name in os.listdir("/dev/shm") if "celery" in name]


# ---- nothing left of something ----


@pytest.mark.parametrize("what", ["result", "error"])
def test_no_file_size_for_a_worker(pool, what):
    """pwrite fails with EFBIG."""
    p = pool(None, processes=1, initializer=buffer_tasks.limit, initargs=("RLIMIT_FSIZE", 2 * MIB))
    target = buffer_tasks.array if what == "result" else buffer_tasks.raise_with
    assert len(p.apply_async(buffer_tasks.array, (MIB,)).get(DEADLINE)) == MIB  # has a place
    for _ in range(3):
        error = failure_of(p.apply_async(target, (SIZE,)))
        assert "File too large" in str(error) and "838" in str(error)
    small = p.apply_async(buffer_tasks.array, (MIB,)).get(DEADLINE)
    assert (small == buffer_tasks.array(MIB)).all()
    del small
    assert p.apply_async(buffer_tasks.checksum, (np.ones(SIZE),)).get(DEADLINE)
    assert p.statistics().lost == 0
    await_given_back(p)


def test_a_source_that_cannot_be_read(pool, tmp_path):
    """A mapping of a file that has become shorter: the text does not blame the pool's memory."""
    p = pool(None, processes=1)
    path = tmp_path / "data"
    path.write_bytes(bytes(SIZE))
    data = np.memmap(path, np.uint8, "r").view(np.ndarray)
    os.truncate(path, 0)
    with pytest.raises(OSError, match="a buffer that is to be sent cannot be read") as caught:
        p.apply_async(tasks.nothing, (data,))
    assert caught.value.errno == errno.EFAULT
    goes_on(p)


# the sanitizer's shadow memory takes terabytes of addresses
needs_plain_addresses = pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="address space under a sanitizer"
)


@needs_plain_addresses
@pytest.mark.parametrize("what", ["argument", "result"])
def test_no_address_space_for_a_worker(pool, what):
    """mmap fails with ENOMEM, or malloc does."""
    p = pool(None, processes=1, initializer=buffer_tasks.limit, initargs=("RLIMIT_AS", 60 * MIB))
    data = np.ones(100 * MIB, np.uint8)
    for _ in range(3):
        if what == "argument":
            error = failure_of(p.apply_async(tasks.nothing, (data,)))
            assert "cannot be mapped" in str(error)
        else:
            error = failure_of(p.apply_async(tasks.zeros, (100 * MIB,)))
        assert isinstance(error, MemoryError)
        assert (p.apply_async(tasks.same, (data[:MIB],)).get(DEADLINE) == 1).all()
    assert p.statistics().lost == 0
    await_given_back(p)


def test_no_descriptors_for_a_worker(pool):
    """A payload needs none."""
    p = pool(None, processes=1, initializer=buffer_tasks.limit, initargs=("RLIMIT_NOFILE", 5))
    p.apply_async(buffer_tasks.use_up_descriptors).get(DEADLINE)
    goes_on(p)


def test_no_descriptors_for_the_parent(tmp_path):
    run_limited(
        """
        limit("RLIMIT_NOFILE", 1)
        use_up_descriptors()
        for n in range(20):
            assert (p.apply_async(tasks.same, (data,)).get(20) == data).all()
        """
    )


def test_no_file_size_for_the_parent():
    run_limited(
        """
        p.apply_async(tasks.same, (small,)).get(20)  # it has a place
        limit("RLIMIT_FSIZE", 2 << 20)
        for n in range(3):
            try:
                p.apply_async(tasks.nothing, (data,))
            except OSError as error:
                assert "File too large" in str(error) and "838" in str(error), error
            else:
                raise AssertionError("no error")
            assert p.apply_async(tasks.same, (small,)).get(20).sum() == small.sum()
            assert p.apply_async(buffer_tasks.array, (8 << 20,)).get(20).sum() == data.sum()
        assert p._core.bytes_in_flight == 0 and p.statistics().in_flight == 0
        """
    )


@needs_plain_addresses
def test_no_address_space_for_the_parent():
    run_limited(
        """
        big = 200 << 20
        limit("RLIMIT_AS", 100 << 20)
        for n in range(3):
            r = p.apply_async(np.zeros, (big, np.uint8))
            try:
                r.get(20)
            except ResultDecodingError as error:
                assert isinstance(error.__cause__, MemoryError), error
                assert "cannot be mapped" in str(error), error
            else:
                raise AssertionError("no error")
            del r
            assert (p.apply_async(tasks.same, (data,)).get(20) == data).all()
        assert p.statistics().lost == 0
        """
    )


def run_limited(body):
    done = run_script(
        textwrap.dedent(
            """
            import numpy as np
            import buffer_tasks, tasks
            from buffer_tasks import limit, use_up_descriptors
            from celery_pool import ResultDecodingError, TaskPool
            from segments import await_given_back
            data = buffer_tasks.array(8 << 20)
            small = buffer_tasks.array(1 << 20)
            with TaskPool(8, processes=1, context="fork") as p:
                p.apply_async(tasks.same, (1,)).get(20)
            """
        )
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "    await_given_back(p)\nprint('done')\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
