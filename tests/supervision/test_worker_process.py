"""Workers are forked by the template itself: what multiprocessing does for its processes holds."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from multiprocessing import util
from pathlib import Path

import pytest

from guards import wait_until
from support import DEADLINE, PYTHON, Gate


def write(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


def finalize_later(path: str) -> int:
    util.Finalize(None, write, args=(path,), exitpriority=5)
    return os.getpid()


def test_finalizers_of_multiprocessing_run_at_a_workers_end(pool, start_method, tmp_path):
    path = tmp_path / "ended"
    p = pool(1)
    pid = p.apply_async(finalize_later, (str(path),)).get(DEADLINE)
    p.close()
    p.join()
    assert path.read_text() == str(pid)


def leave(how: str) -> None:
    if how == "raise":
        raise LookupError("not in order")
    sys.exit({"code": 3, "text": "a text"}[how])


@pytest.mark.parametrize("how", ["code", "text", "raise"])
def test_what_a_finalizer_raises_is_the_exit_code(pool, start_method, capfd, how):
    p = pool(1, finalizer=Leave(how))
    p.close()
    p.join()
    assert p.statistics().exits == {"exit_code": 1}
    if start_method == "forkserver":
        return  # its stderr is that of the test that has started it
    printed = capfd.readouterr().err
    assert ("a text" in printed) == (how == "text")
    assert ("LookupError: not in order" in printed) == (how == "raise")
    assert ("-worker-1:" in printed) == (how == "raise")


class Leave:
    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self) -> None:
        leave(self.how)


def surroundings() -> dict[str, object]:
    parent = multiprocessing.parent_process()
    current = multiprocessing.current_process()
    assert parent is not None
    return {
        "stdin": sys.stdin.read(),
        "parent": (
            parent.pid == os.getppid(),
            parent.is_alive(),
            parent.name.endswith("-template"),
        ),
        "authkey": bytes(current.authkey),
        "name": current.name.endswith("-worker-1"),
        "daemon": current.daemon,
        "pid": current.pid == os.getpid(),
        "alive": current.is_alive(),
        "children": multiprocessing.active_children(),
    }


def test_what_a_task_sees_of_its_process(pool, start_method):
    assert pool(1).apply_async(surroundings).get(DEADLINE) == {
        "stdin": "",
        "parent": (True, True, True),
        "authkey": bytes(multiprocessing.current_process().authkey),
        "name": True,
        "daemon": False,
        "pid": True,
        "alive": True,
        "children": [],
    }


def draw(gate: str) -> float:
    import tasks

    tasks.pass_gate(gate)
    return random.random()


def test_workers_draw_numbers_of_their_own(pool, start_method, tmp_path):
    random.random()  # the module is loaded, and seeded, before the fork
    p = pool(2, initializer=random.random)
    gate = Gate(tmp_path)
    results = [p.apply_async(draw, (gate.path,)) for _ in range(2)]
    gate.await_tasks(2)
    gate.open()
    assert len({r.get(DEADLINE) for r in results}) == 2


def descriptors(gate: str) -> int:
    import tasks

    tasks.pass_gate(gate)
    return len(os.listdir("/proc/self/fd"))


def test_no_worker_inherits_what_another_one_was_given(pool, start_method, tmp_path):
    p = pool(6)
    gate = Gate(tmp_path)
    results = [p.apply_async(descriptors, (gate.path,)) for _ in range(6)]
    gate.await_tasks(6)
    gate.open()
    assert len({r.get(DEADLINE) for r in results}) == 1


def await_parents_end(gate: str) -> int | None:
    import tasks

    parent = multiprocessing.parent_process()
    assert parent is not None
    tasks.pass_gate(gate)
    os.kill(os.getppid(), signal.SIGKILL)
    parent.join(DEADLINE)
    return parent.is_alive()


def test_a_worker_can_wait_for_the_templates_end(pool, start_method, tmp_path):
    p = pool(3)
    gate = Gate(tmp_path)
    result = p.apply_async(await_parents_end, (gate.path,))
    gate.await_tasks(1)
    gate.open()
    assert result.get(DEADLINE) is False
    wait_until(lambda: len(p.get_worker_pids()) == 3, DEADLINE)


PRELOADING = """
import multiprocessing, sys
from celery_pool import TaskPool

def loaded(name):
    import os
    return name in sys.modules

def main():
    multiprocessing.set_forkserver_preload(["colorsys"])
    from multiprocessing import forkserver
    with TaskPool(1, context="forkserver") as p:
        assert p.apply_async(loaded, ("colorsys",)).get()
    assert forkserver._forkserver._preload_modules == ["colorsys", "celery_pool.child.template"]
    with TaskPool(1, context="forkserver") as p:
        assert p.apply_async(loaded, ("colorsys",)).get()
    assert forkserver._forkserver._preload_modules == ["colorsys", "celery_pool.child.template"]

if __name__ == "__main__":
    main()
"""


def test_the_forkserver_preloads_what_the_program_wants_and_what_templates_need(tmp_path):
    script = tmp_path / "preloading.py"
    script.write_text(PRELOADING)
    subprocess.run([*PYTHON, str(script)], check=True, timeout=DEADLINE)
