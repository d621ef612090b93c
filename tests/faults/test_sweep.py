"""Every system call may fail; `sweep.py` tells of what, and in which process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from celery_pool.supervision.roster import FDS_OF_A_WORKER
from compiling import compile_c
from guards import wait_until
from support import DEADLINE, PYTHON, START_METHODS, run_script, script_environment

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of glibc's functions")


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory):
    """The library that is preloaded."""
    library = tmp_path_factory.mktemp("sweep") / "failing_calls.so"
    options = ("-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    return compile_c(HERE / "c" / "failing_calls.c", library, *options)


@pytest.mark.timeout(50)
def test_calls_of_the_parent(failing_calls, tmp_path):
    swept(failing_calls, tmp_path, "fork", "parent", at_least=50)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("role", ["parent", "template", "worker"])
@pytest.mark.parametrize("method", START_METHODS)
def test_calls(failing_calls, tmp_path, method, role):
    swept(failing_calls, tmp_path, method, role, at_least=10)


def swept(library, tmp_path, method, role, at_least):
    options = ["--method", method, "--role", role]
    done = run_preloaded(library, tmp_path, str(HERE / "sweep.py"), str(library), *options)
    first, _, last = done.stdout.rpartition(" calls failed, ")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert last.strip() == "0 defects"
    assert int(first.split()[-1]) >= at_least


def run_preloaded(library, tmp_path, *arguments):
    page = tmp_path / "page"
    page.write_bytes(bytes(4096))
    preloaded = " ".join([os.environ.get("LD_PRELOAD", ""), str(library)]).strip()
    environment = script_environment() | {"LD_PRELOAD": preloaded, "FAILING_CALLS": str(page)}
    return subprocess.run(
        [*PYTHON, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )


# ---- what fails again and again ----

GOES_ON_FAILING = """
import ctypes, errno, os, signal, sys
from pathlib import Path
import tasks
from celery_pool import TaskPool
from guards import Belongings, leftovers
from support import DEADLINE, Background, Gate, Log

path, directory, way = sys.argv[1:]
library = ctypes.CDLL(path)
library.arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int]
before = Belongings.now()
log, gate = Log(), Gate(Path(directory))
pool = TaskPool(None, processes=2, max_restarts=3, logger=log.logger, context="fork")
pool.run()
held = pool.apply_async(tasks.pass_gate, (gate.path,))
(busy,) = gate.await_tasks()
(idle,) = set(pool.get_worker_pids()) - {busy}
waiter = Background(held.get)
library.arm(b"epoll_ctl", 0, 0, errno.ENOMEM)
os.kill(idle, signal.SIGKILL)
if way == "terminate":
    Background(pool.terminate).result()
try:
    waiter.result()
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    print(type(error.__cause__).__name__)
library.disarm()
print(log.text.count("it tries again"))
pool.close()
assert Background(pool.join).result()
pool.run()
assert pool.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
pool.terminate()
del pool, held, waiter
assert not leftovers(before)
"""


@pytest.mark.parametrize("way", ["wait", "terminate"])
def test_a_supervisor_that_cannot_go_on(failing_calls, tmp_path, way):
    """Past the restart budget the pool breaks; nobody waits for ever."""
    done = run_preloaded(
        failing_calls, tmp_path, "-c", GOES_ON_FAILING, str(failing_calls), str(tmp_path), way
    )
    assert done.returncode == 0, done.stderr
    error, cause, tries = done.stdout.splitlines()
    if way == "wait":
        assert error == (
            "CrashLoopError: the supervisor has failed: OSError: [Errno 12] Cannot allocate memory"
        )
        assert (cause, tries) == ("OSError", "3")
    else:
        # of the latter if it fails before all have been killed
        assert error.startswith(("PoolTerminated: ", "CrashLoopError: the supervisor has failed: "))


def test_no_descriptors_for_so_many_workers():
    """Who asks for more than there are hears what a worker takes."""
    done = run_script(
        """
import resource
import tasks
from celery_pool import TaskPool
from guards import Belongings, leftovers

before = Belongings.now()
pool = TaskPool(8, context="fork")
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, most))
try:
    pool.run()
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, most))
with pool:
    assert [pool.apply_async(tasks.same, (n,)).get(20) for n in range(8)] == list(range(8))
del pool
assert not leftovers(before)
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        f"[Errno 24] Too many open files: each worker takes {FDS_OF_A_WORKER} descriptors "
        "of this process, which may have 40 (RLIMIT_NOFILE)"
    )


def test_what_a_worker_takes(pool):
    """The numbers of docs/reliability.md, and of that message."""

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    all_pools, of_a_pool = 1, 13
    before = descriptors() + all_pools + of_a_pool
    p = pool(8, processes=1)
    wait_until(lambda: descriptors() == before + FDS_OF_A_WORKER, DEADLINE, "one worker")
    p.grow(3)
    wait_until(lambda: p.ready == 4, DEADLINE, "four workers")
    wait_until(lambda: descriptors() == before + 4 * FDS_OF_A_WORKER, DEADLINE, "no more")
