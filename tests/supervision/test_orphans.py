"""The parent is gone, or ends, or forks: workers go with it, and nothing else does."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import tasks
from celery_pool import TaskPool
from guards import descendants, wait_until
from support import (
    DEADLINE,
    PYTHON,
    Background,
    Calls,
    at_rest,
    is_gone,
    run_script,
    script_environment,
    took,
)

#: How long workers may outlive a parent that was killed, in seconds.
SOON = 2.0


def program(text, *args, **options):
    """A program that writes "ready" and goes on; from a file, as spawn needs it."""
    return subprocess.Popen(
        [*PYTHON, "-c", text, *args],
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def all_gone(pids, seconds):
    start = time.monotonic()
    wait_until(
        lambda: all(is_gone(pid) for pid in pids),
        seconds,
        f"all gone; left: {[pid for pid in pids if not is_gone(pid)]}",
    )
    return time.monotonic() - start


# ---- killed ----

WORKING = """
import sys, time, limit_targets, tasks
from celery_pool import TaskPool
if __name__ == "__main__":
    method, kind, mark, options = sys.argv[1:]
    pool = TaskPool(None, processes=2, context=method, **eval(options))
    pool.run()
    pool.apply_async(tasks.nothing).get()
    if kind != "idle":
        for i in range(2):
            pool.apply_async(limit_targets.endless, (kind, f"{mark}{i}", True))
        for i in range(2):
            tasks.wait_for_file(f"{mark}{i}")
        for _ in range(1000):
            pool.apply_async(tasks.nothing)
    print("ready", flush=True)
    time.sleep(600)
"""


def killed_while_working(method, kind, mark, options="{}"):
    process = program(WORKING, method, kind, mark, options)
    try:
        assert process.stdout.readline() == "ready\n"
        family = set(descendants(process.pid))
        assert len(family) >= 3  # two workers and the template
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return family


@pytest.mark.parametrize("kind", ["idle", "sleep", "c", "python"])
def test_killed_with_sigkill(start_method, kind, tmp_path):
    family = killed_while_working(start_method, kind, str(tmp_path / "mark"))
    seconds = all_gone(family, SOON)
    print(f"{start_method} {kind}: all gone after {seconds * 1000:.1f} ms")


def test_killed_with_stopped_workers(tmp_path):
    """A stopped process can be killed, too: workers and the template."""
    process = program(WORKING, "fork", "idle", str(tmp_path / "mark"), "{}")
    assert process.stdout.readline() == "ready\n"
    family = set(descendants(process.pid))
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    process.stdout.close()
    all_gone(family, SOON)


def test_killed_with_process_groups(tmp_path):
    family = killed_while_working("fork", "sleep", str(tmp_path / "m"), "{'kill_group': True}")
    all_gone(family, SOON)


def test_killed_while_its_own_child_lives_on(gate):
    """A child that the program forked keeps no worker alive."""
    process = program(
        """
import os, sys, time, limit_targets, tasks, warnings
from celery_pool import TaskPool
warnings.simplefilter("ignore", DeprecationWarning)
pool = TaskPool(2, context="fork")
pool.run()
late = TaskPool(2, context="fork")
child = os.fork()
if child == 0:
    tasks.wait_for_file(sys.argv[1])
    os._exit(0)
late.run()
print(child, *pool.get_worker_pids(), *late.get_worker_pids(), flush=True)
time.sleep(600)
""",
        gate.path,
    )
    child, *workers = map(int, process.stdout.readline().split())
    assert len(workers) == 4
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        all_gone(workers, SOON)
        assert not is_gone(child)
    finally:
        gate.open()
    wait_until(lambda: is_gone(child), DEADLINE)


def test_killed_while_it_starts_and_ends_pools():
    """At any moment of a pool's life."""
    text = """
from celery_pool import TaskPool
print("ready", flush=True)
while True:
    with TaskPool(2, context="fork") as pool:
        pool.apply_async(int)
"""
    for i in range(6):
        process = program(text)
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01 * i)
        process.send_signal(signal.SIGSTOP)
        family = set(descendants(process.pid))
        process.kill()
        process.wait()
        process.stdout.close()
        all_gone(family, SOON)


# ---- the interpreter ends ----

ENDING = """
import os, sys, threading, time, tasks
from celery_pool import PoolError, TaskPool
def stop(value, meta):
    sys.exit(3)
if __name__ == "__main__":
    method, what, mark = sys.argv[1:]
    pool = TaskPool(8, processes=2, context=method)
    pool.run()
    print(*pool.get_worker_pids(), flush=True)
    pool.apply_async(tasks.nothing).get()
    if what in ("busy", "sys.exit in a callback", "a thread"):
        for _ in range(5):
            pool.apply_async(time.sleep, (60,), errbacks=lambda exc, meta: None)
    if what == "callback waits":
        pool.apply_async(tasks.nothing, callbacks=lambda value, meta: time.sleep(0.5))
    if what == "sys.exit in a callback":
        for _ in range(2):
            pool.apply_async(tasks.nothing, callbacks=stop)
        pool2 = TaskPool(1, context=method, callbacks_in="caller")
        pool2.run()
        pool2.apply_async(tasks.nothing, callbacks=stop)
        while True:
            pool2.wait_for_result()
    if what == "a thread":
        def body():
            time.sleep(0.3)
            r = pool.apply_async(tasks.nothing, callbacks=lambda *_: print("late", flush=True))
        threading.Thread(target=body).start()
    if what == "a daemon thread":
        def body():
            try:
                while True:
                    pool.apply_async(tasks.nothing)
            except PoolError:
                pass
        threading.Thread(target=body, daemon=True).start()
        time.sleep(0.2)
    if what == "atexit":
        import atexit
        atexit.register(lambda: print(pool.apply_async(tasks.same, (5,)).get(5), flush=True))
    if what == "killed worker":
        for pid in pool.get_worker_pids():
            os.kill(pid, 9)
"""


@pytest.mark.parametrize(
    ("method", "what"),
    [
        *((m, w) for m in ("fork", "forkserver", "spawn") for w in ("idle", "busy")),
        ("fork", "callback waits"),
        ("fork", "sys.exit in a callback"),
        ("fork", "a thread"),
        ("fork", "a daemon thread"),
        ("fork", "atexit"),
        ("fork", "killed worker"),
        ("spawn", "killed worker"),
    ],
)
def test_the_interpreter_ends_without_close(method, what, tmp_path):
    """At once and without a word."""
    start = time.monotonic()
    done = run_script(ENDING, method, what, str(tmp_path / "mark"), timeout=20)
    took(start, 10)
    assert done.stderr == ""
    assert done.returncode == (3 if what == "sys.exit in a callback" else 0)
    lines = done.stdout.splitlines()
    all_gone(map(int, lines[0].split()), SOON)
    if what == "atexit":
        assert lines[1:] == ["5"]


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
def test_a_callback_that_exits_in_the_reaper(mode):
    """The reaper goes on; nothing hangs at the end."""
    done = run_script(
        """
import sys, tasks
from celery_pool import PoolError, TaskPool
def stop(value, meta):
    sys.exit(3)
with TaskPool(4, context="fork", callbacks_in=sys.argv[1]) as pool:
    try:
        r = [pool.apply_async(tasks.same, (i,), callbacks=stop) for i in range(4)]
        print([one.get(10) for one in r])
        while pool.wait_for_result():
            pass
    except SystemExit:
        print("exit")
        raise
""",
        mode,
        timeout=20,
    )
    assert "Traceback" not in done.stderr
    if mode == "reaper":
        assert (done.returncode, done.stdout) == (0, "[0, 1, 2, 3]\n")
    if mode == "caller":
        assert (done.returncode, done.stdout[-5:]) == (3, "exit\n")


# ---- dropped ----


def test_dropped_without_close(start_method):
    p = TaskPool(2, context=start_method)
    p.run()
    family = p.get_worker_pids()
    p.apply_async(tasks.nothing).get(DEADLINE)
    wait_until(lambda: at_rest(p), DEADLINE)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del p
        gc.collect()
    all_gone(family, SOON)


# ---- forks and programs of the user ----


def test_the_users_own_forks_and_programs(pool):
    """While the pool works; each child goes its way, and the pool does, too."""
    p = pool(16, processes=2)
    stop = threading.Event()
    counted = Calls()

    def work():
        n = 0
        while not stop.is_set():
            p.apply_async(tasks.same, (n,), callbacks=counted)
            n += 1
            if n % 50 == 0:
                p.apply_async(tasks.digest, (bytes(300_000),)).get(DEADLINE)
        return n

    worker = Background(work)
    statuses = []
    for i in range(30):
        if i % 3 == 2:
            subprocess.run([sys.executable, "-c", "pass"], check=True) if i == 2 else os.system(
                "true"
            )
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            # what a child may do: look, be refused, drop it, end in any way
            status = 1
            with contextlib.suppress(BaseException):
                try:
                    p.apply_async(tasks.nothing)
                except Exception:
                    status = 0
                del p
                gc.collect()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    n = worker.result()
    wait_until(lambda: at_rest(p), DEADLINE)
    assert statuses == [0] * 20
    assert sorted(counted.values) == list(range(n))
    assert p.statistics().failed == 0
    # and a death is still seen at once
    (pid, other) = p.get_worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(p.get_worker_pids()) == 2 and pid not in p.get_worker_pids(), DEADLINE)
    assert other in p.get_worker_pids()


def test_a_user_that_waits_for_all_children(pool):
    """waitpid(-1) takes statuses that others wait for."""
    p = pool(2)
    stop = threading.Event()

    def steal():
        while not stop.is_set():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.0005)

    thief = Background(steal)
    try:
        for _ in range(3):
            r = p.apply_async(tasks.die)
            r.wait(DEADLINE)
            assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
        start = time.monotonic()
        Background(p.terminate).result()
        took(start, 2)
    finally:
        stop.set()
        thief.result()


def test_sigchld_ignored_by_the_user():
    """The kernel then keeps no status at all."""
    start = time.monotonic()
    done = run_script(
        """
import signal, tasks
from celery_pool import TaskPool, WorkerLostError
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with TaskPool(2, context="fork") as pool:
    try:
        pool.apply_async(tasks.die).get(10)
    except WorkerLostError as error:
        print(error.exitcode)
    print(pool.apply_async(tasks.same, (1,)).get(10))
""",
        timeout=20,
    )
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == done.stderr.count("died: killed by SIGKILL")
    assert done.stdout.split() == ["-9", "1"]
    took(start, 3)


# ---- another build ----


def test_a_worker_of_another_build_refuses(tmp_path):
    """The package is replaced between the program's import of it and run(). (A forkserver has
    imported one of them when it starts, and keeps it.)"""
    method = "spawn"
    import celery_pool

    original = Path(celery_pool.__file__).parent
    upgraded = tmp_path / "celery_pool"
    upgraded.mkdir()
    for path in original.rglob("*"):
        target = upgraded / path.relative_to(original)
        if path.suffix == ".py":
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(path.read_bytes())
    extension = Path(celery_pool._poolcore.__file__)
    binary = extension.read_bytes()
    assert b"CLRYPOOL" in binary  # layout.h's CP_MAGIC, which the worker compares
    (upgraded / extension.name).write_bytes(binary.replace(b"CLRYPOOL", b"CLRYNEXT"))
    done = run_script(
        """
import os, sys
import celery_pool, tasks
from celery_pool import AttachError, TaskPool
if __name__ == "__main__":
    method, upgraded = sys.argv[1:]
    sys.path.insert(0, upgraded)
    path = os.environ["PYTHONPATH"]
    os.environ["PYTHONPATH"] = f"{upgraded}:{path}"  # for the forkserver
    pool = TaskPool(2, context=method, start_timeout=20)
    try:
        pool.run()
    except AttachError as error:
        print("refused:", error)
    else:
        print("it runs")
        pool.terminate()
    sys.path.remove(upgraded)
    os.environ["PYTHONPATH"] = path
    with TaskPool(2, context="spawn") as pool:
        print(pool.apply_async(tasks.same, (1,)).get(10))
""",
        method,
        str(tmp_path),
    )
    assert done.stderr == ""
    refused, one = done.stdout.splitlines()
    assert refused.startswith("refused:")
    assert "another build" in refused
    assert one == "1"
