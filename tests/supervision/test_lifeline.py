"""The template goes with its parent, also before it has come to its first request."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from guards import descendants, wait_until
from support import DEADLINE, PYTHON, Gate, is_gone, script_environment

#: How long processes may outlive a parent that was killed, in seconds.
SOON = 2.0

PROGRAM = """
import functools, os, sys, limit_targets, tasks
from celery_pool import TaskPool
if __name__ == "__main__":
    method, gate, where, renews = sys.argv[1:]
    if where == "an import":
        import hanging_app
        os.environ["HANGS"] = gate
        initializer, arguments = hanging_app.nothing, ()
    elif where == "C code":
        initializer, arguments = limit_targets.endless, ("c", gate, True)
    else:
        initializer, arguments = tasks.pass_gate, (gate,)
    pool = TaskPool(
        2,
        context=method,
        start_timeout=600,
        template_initializer=functools.partial(tasks.unless_exists, gate + ".not", initializer),
        template_initargs=arguments,
    )
    if renews == "renew":
        open(gate + ".not", "w").close()
        pool.run()
        os.unlink(gate + ".not")
        pool.renew()
        tasks.wait_for_file(gate + ".end")
    else:
        pool.run()
"""

HANGING_APP = """
import os
import tasks
def nothing():
    pass
if "HANGS" in os.environ:
    tasks.pass_gate(os.environ["HANGS"])
"""


@pytest.fixture
def program(tmp_path):
    """Starts it; it is in the template's initializer then, of which this is the pid."""
    (tmp_path / "hanging_app.py").write_text(HANGING_APP)
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    processes = []

    def start(method, where, renews=""):
        gate = Gate(tmp_path)
        process = subprocess.Popen(
            [*PYTHON, str(script), method, gate.path, where, renews], env=script_environment()
        )
        processes.append(process)
        if where == "C code":
            wait_until(lambda: os.path.exists(gate.path), DEADLINE, "it hangs")
            return process, int(Path(gate.path).read_text())
        return process, gate.await_tasks()[0]

    yield start
    for process in processes:
        process.kill()
        process.wait()


PLACES = [
    *(
        (method, where)
        for method in ("fork", "forkserver", "spawn")
        for where in ("Python", "C code")
    ),
    ("forkserver", "an import"),
    ("spawn", "an import"),
]


@pytest.mark.parametrize(("method", "where"), PLACES)
def test_the_parent_is_killed_while_the_template_initializes(program, method, where):
    killed_parent(*program(method, where))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_parent_is_killed_while_the_next_template_initializes(program, method):
    killed_parent(*program(method, "Python", "renew"))


def killed_parent(process, template):
    family = set(descendants(process.pid))
    assert template in family
    process.kill()
    process.wait()
    wait_until(
        lambda: all(is_gone(pid) for pid in family),
        SOON,
        "everything is gone",
    )


def test_a_stopped_template_goes_as_well(program):
    process, template = program("fork", "Python")
    os.kill(template, signal.SIGSTOP)
    killed_parent(process, template)
