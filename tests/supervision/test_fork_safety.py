"""Forks: of the program that has a pool, and of its workers' parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tasks
from celery_pool import PoolError, TaskPool, WrongProcess
from guards import wait_until
from processes import in_forked_child
from support import DEADLINE, Calls, Gate, is_gone, run_script, script_environment


class Done:
    def ready(self):
        return True

    def get(self):
        return None


# Values that the child may ask for, but it must not touch the memory that it has not got.
LOOKS = {
    "end of a with block": lambda p, r: p.__exit__(None, None, None),
    "end of a with block by an exception": lambda p, r: p.__exit__(SystemExit, SystemExit(), None),
    "ready": lambda p, r: r.ready(),
    "worker_pid": lambda p, r: r.worker_pid,
    "repr of the result": lambda p, r: repr(r),
    "repr of the pool": lambda p, r: repr(p),
    "full": lambda p, r: p.full(),
    "statistics": lambda p, r: p.statistics().in_flight,
    "get_worker_pids": lambda p, r: p.get_worker_pids(),
}

CALLS = {
    "apply_async": lambda p, r: p.apply_async(tasks.nothing),
    "apply_async of long arguments": lambda p, r: p.apply_async(tasks.same, (bytes(300_000),)),
    "add": lambda p, r: p.add(Done()),
    "reap": lambda p, r: p.reap(),
    "wait_for_result": lambda p, r: p.wait_for_result(),
    "on_return": lambda p, r: p.on_return(None, r.tid, [], [], {}),
    "get": lambda p, r: r.get(1),
    "wait": lambda p, r: r.wait(1),
    "close": lambda p, r: p.close(),
    "join": lambda p, r: p.join(1),
    "terminate": lambda p, r: p.terminate(),
    "run": lambda p, r: p.run(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_forked_child_cannot_use_it(pool, tmp_path, call):
    gate, calls = Gate(tmp_path), Calls()
    p = pool(2)
    workers = p.get_worker_pids()
    r = p.apply_async(tasks.pass_gate, (gate.path, 5), callbacks=calls)
    gate.await_tasks()
    kind, text = in_forked_child(lambda: CALLS[call](p, r))
    assert kind == "WrongProcess", text
    assert issubclass(WrongProcess, PoolError)
    # and the parent's pool has not noticed
    gate.open()
    assert r.get(DEADLINE) == 5
    assert calls.values == [5]
    assert p.get_worker_pids() == workers
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("look", LOOKS)
def test_a_forked_child_may_look_at_it(pool, tmp_path, look):
    """It gets an answer or WrongProcess, and does not crash."""
    gate = Gate(tmp_path)
    p = pool(2)
    r = p.apply_async(tasks.pass_gate, (gate.path, 5))
    gate.await_tasks()
    kind, text = in_forked_child(lambda: LOOKS[look](p, r))
    assert kind in ("returned", "WrongProcess"), text
    gate.open()
    assert r.get(DEADLINE) == 5
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_closing_a_closed_pool_in_a_forked_child(pool):
    p = pool(1)
    p.close()
    kind, text = in_forked_child(lambda: p.join(1))
    assert kind == "WrongProcess", text
    assert p.join(DEADLINE)


def test_a_forked_child_sees_what_is_done(pool):
    p = pool(1)
    r = p.apply_async(tasks.same, ("value",), callbacks=Calls())
    r.get(DEADLINE)
    assert in_forked_child(lambda: (r.ready(), r.get(), r.tid)) == (
        "returned",
        (True, "value", r.tid),
    )


def test_a_forked_child_may_have_a_pool_of_its_own(pool):
    p = pool(1)

    def child():
        with TaskPool(1, context="fork") as own:
            return own.apply_async(tasks.same, (7,)).get(DEADLINE)

    assert in_forked_child(child) == ("returned", 7)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_a_forked_child_may_drop_it(pool):
    """No ResourceWarning, no harm to the parent's workers."""
    import gc

    p = TaskPool(2, context="fork")
    p.run()
    workers = p.get_worker_pids()
    long = p.apply_async(tasks.pattern, (500_000,))
    long.wait(DEADLINE)
    holder = {"pool": p, "long": long}

    def child():
        nonlocal p, long
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del p, long
            holder.clear()
            gc.collect()
        return [str(w.message) for w in caught]

    assert in_forked_child(child) == ("returned", [])
    p, long = holder["pool"], holder["long"]
    assert long.get(DEADLINE) == tasks.pattern(500_000)
    assert p.get_worker_pids() == workers
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    p.terminate()


def test_a_child_that_ends_as_an_interpreter_does(tmp_path):
    """sys.exit in a forked child, with atexit and multiprocessing's finalizers."""
    done = run_script(
        """
import os, sys, tasks, warnings
from celery_pool import TaskPool
warnings.simplefilter("ignore", DeprecationWarning)
pool = TaskPool(2, context="fork")
pool.run()
r = pool.apply_async(tasks.same, (1,))
r.get(20)
child = os.fork()
if child == 0:
    sys.exit(5)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 5, status
before = pool.get_worker_pids()
assert pool.apply_async(tasks.same, (2,)).get(20) == 2
assert pool.get_worker_pids() == before
pool.close()
assert pool.join(20)
print("fine")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("where", ["idle", "python", "C code"])
def test_workers_die_with_their_parent(start_method, tmp_path, where):
    """Also inside C code that holds the GIL, also if a child of the parent lives on."""
    gate = Gate(tmp_path)
    script = """
import os, sys, time, warnings, tasks
from celery_pool import TaskPool
warnings.simplefilter("ignore", DeprecationWarning)
if __name__ == "__main__":
    method, where, gate = sys.argv[1:]
    pool = TaskPool(2, context=method)
    pool.run()
    if where == "python":
        pool.apply_async(tasks.pass_gate, (gate,))
    elif where == "C code":
        pool.apply_async(pow, (7, 10**8))
    workers = pool.get_worker_pids()
    if os.fork() == 0:
        print(os.getpid(), *workers, flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(path), start_method, where, gate.path],
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    child = None
    try:
        child, *workers = map(int, parent.stdout.readline().split())
        assert len(workers) == 2
        if where == "python":
            gate.await_tasks()
        parent.kill()
        parent.wait()
        wait_until(lambda: all(map(is_gone, workers)), 5, "the workers' end")
    finally:
        parent.kill()
        if child is not None:
            os.kill(child, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    wait_until(lambda: is_gone(child), DEADLINE)


def test_a_child_that_lives_on_does_not_keep_the_workers_memory(pool):
    """What belongs to the pool is closed in a user's forked child."""
    p = pool(2)
    p.apply_async(tasks.same, (1,)).get(DEADLINE)

    def names():
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except OSError:
                continue
        with open("/proc/self/maps") as maps:
            found += [line.split()[-1] for line in maps if "memfd" in line]
        return [name for name in found if "celery_pool" in name or "pidfd" in name]

    assert names()
    assert in_forked_child(names) == ("returned", [])


def test_a_second_pool_does_not_hold_the_first_ones_descriptors(pool):
    """Workers that outlive a pool keep nothing of it."""
    first = pool(1)
    second = pool(1)
    old = first.get_worker_pids()
    found = second.apply_async(tasks.descriptors).get(DEADLINE)
    assert len([name for name in found if "memfd:" in name]) == 3  # two segments, its stacks
    first.terminate()
    wait_until(lambda: all(map(is_gone, old)), DEADLINE)
    assert second.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_a_program_started_by_a_task_gets_no_descriptor_of_ours(pool, start_method):
    p = pool(1)
    command = ["/bin/sh", "-c", "ls -l /proc/self/fd"]
    out = p.apply_async(subprocess.check_output, (command,)).get(DEADLINE).decode()
    assert "celery_pool" not in out
    listed = [line for line in out.splitlines() if " -> " in line]
    assert not [line for line in listed if "pipe:" in line and int(line.split()[-3]) > 2]


def test_tasks_may_start_processes(pool, start_method):
    p = pool(1)
    assert p.apply_async(tasks.uses_multiprocessing, (start_method,)).get(DEADLINE) == [1, 4, 9]


def test_signals_of_the_embedding_program_are_not_inherited(pool, start_method):
    """Neither its mask nor its handlers: SIGTERM ends a worker."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        p = pool(1)
        dispositions = p.apply_async(tasks.signal_state).get(DEADLINE)
        assert dispositions == ([], "SIG_DFL")
        (worker,) = p.get_worker_pids()
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: p.get_worker_pids() not in ([], [worker]), DEADLINE)
        assert p.apply_async(tasks.signal_state).get(DEADLINE) == ([], "SIG_DFL")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, before)


def test_a_pool_inside_a_worker(pool, start_method):
    p = pool(1)
    assert p.apply_async(tasks.pool_in_a_task, (start_method,)).get(DEADLINE) == [0, 1, 2]
