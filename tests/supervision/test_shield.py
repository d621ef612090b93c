"""Signals that a whole process group gets: its program drains, workers live until that is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from celery_pool import Pool, TaskPool
from guards import wait_until
from processes import in_forked_child, signalled_by_another
from support import DEADLINE, PYTHON, Gate, is_gone, script_environment

METHODS = ["fork", "forkserver", "spawn"]
GROUP = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]

CONSUMER = """
import signal, sys, threading
import tasks
from celery_pool import TaskPool

def main():
    method, gate = sys.argv[1:]
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: asked.set())
    pool = TaskPool(None, processes=2, context=method)
    pool.run()
    results = [pool.apply_async(tasks.pass_gate, (gate, i)) for i in range(6)]
    print("workers", *pool.get_worker_pids(), pool._supervisor.roster.template.pid, flush=True)
    while not asked.wait(0.05):
        pass
    print("asked", flush=True)
    pool.drain(60)
    print("finished", [r.get(0) for r in results], flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("signum", GROUP, ids=lambda s: s.name)
def test_a_consumer_drains_after_a_signal_to_its_group(
    method: str, signum: signal.Signals, gate: Gate, tmp_path: Path
) -> None:
    script = tmp_path / "consumer.py"
    script.write_text(CONSUMER)
    with subprocess.Popen(
        [*PYTHON, str(script), method, gate.path],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as program:
        assert program.stdout is not None
        try:
            pids = [int(pid) for pid in program.stdout.readline().split()[1:]]
            gate.await_tasks(2)
            os.killpg(program.pid, signum)
            assert program.stdout.readline() == "asked\n"
            os.killpg(program.pid, signum)
            gate.open()
            assert program.stdout.readline() == "finished [0, 1, 2, 3, 4, 5]\n"
            assert program.wait(DEADLINE) == 0
        finally:
            program.kill()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


AGAIN = """
import os, signal, sys, time
from multiprocessing import resource_tracker
import tasks
from celery_pool import TaskPool
from processes import signalled_by_another
from support import is_gone, stays

def main():
    numbers = signal.SIGHUP, signal.SIGQUIT
    for number in numbers:
        signal.signal(number, lambda *_: None)
    pool = TaskPool(None, processes=2, context=sys.argv[1])
    pool.run()
    tracker = resource_tracker._resource_tracker._pid
    for number in numbers:
        signalled_by_another(-os.getpid(), number)
    assert stays(lambda: not is_gone(tracker))
    old = pool.get_worker_pids()
    pool.renew()
    while set(old) & set(pool.get_worker_pids()):
        time.sleep(0.005)
    assert pool.apply_async(tasks.same, (1,)).get(10) == 1
    pool.terminate()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_another_template_can_be_started_after_signals_to_the_group(
    method: str, tmp_path: Path
) -> None:
    """They do not end the resource tracker of multiprocessing, which would warn of it."""
    script = tmp_path / "again.py"
    script.write_text(AGAIN)
    ended = subprocess.run(
        [*PYTHON, str(script), method],
        capture_output=True,
        text=True,
        start_new_session=True,
        env=script_environment(),
        timeout=3 * DEADLINE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_program_itself_may_end_a_worker(pool) -> None:
    p = pool(1)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        pid = p.apply_async(tasks.pid).get(DEADLINE)
        os.kill(pid, signum)
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


def test_which_signals_are_kept_off_is_an_option(pool) -> None:
    p = pool(1, shield=[signal.SIGUSR2])
    (pid,) = p.get_worker_pids()
    signalled_by_another(pid, signal.SIGUSR2)
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid
    signalled_by_another(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid), DEADLINE)


heard: list[int] = []


def hear_signals() -> None:
    for number in GROUP:
        signal.signal(number, lambda signum, frame: heard.append(signum))


def reset_signals() -> None:
    for number in GROUP:
        signal.signal(number, signal.SIG_DFL)


def what_was_heard() -> list[int]:
    return heard


def what_a_child_hears() -> list[int]:
    return in_forked_child(lambda: [signal.raise_signal(n) for n in GROUP] and heard)


def test_handlers_of_an_initializer_get_what_the_program_sends(pool) -> None:
    p = pool(1, initializer=hear_signals)
    (pid,) = p.get_worker_pids()
    for signum in GROUP:
        signalled_by_another(pid, signum)
    assert p.apply_async(what_was_heard).get(DEADLINE) == []
    for signum in GROUP:
        os.kill(pid, signum)
    wait_until(lambda: sorted(p.apply_async(what_was_heard).get(DEADLINE)) == sorted(GROUP))
    assert p.get_worker_pids() == [pid]


def test_handlers_of_an_initializer_are_what_tasks_start_with(pool) -> None:
    p = pool(1, initializer=hear_signals)
    assert p.apply_async(what_a_child_hears).get(DEADLINE) == ("returned", GROUP)


def test_an_initializer_that_resets_signals(pool) -> None:
    p = pool(1, initializer=reset_signals)
    (pid,) = p.get_worker_pids()
    for signum in GROUP:
        signalled_by_another(pid, signum)
    assert p.apply_async(tasks.pid).get(DEADLINE) == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid), DEADLINE)


def test_workers_of_pool_go_as_the_standard_librarys_do() -> None:
    with Pool(1) as p:
        pid = p.apply(tasks.pid)
        signalled_by_another(pid, signal.SIGTERM)
        wait_until(lambda: is_gone(pid), DEADLINE)
        assert p.apply(tasks.pid) != pid


def dispositions_of_children() -> list[int]:
    """What a process that is forked here, and one that is executed, do at SIGTERM."""
    forked = os.fork()
    if forked == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    executed = subprocess.Popen(["sleep", "60"])
    os.kill(forked, signal.SIGTERM)
    executed.terminate()
    return [-os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]), -executed.wait()]


@pytest.mark.parametrize("method", METHODS)
def test_what_tasks_start_has_no_shield(pool, method: str) -> None:
    p = pool(1, context=method)
    r = p.apply_async(dispositions_of_children)
    assert r.get(DEADLINE) == [signal.SIGTERM, signal.SIGTERM]


arm = False


def at_every_fork() -> None:
    """Before a worker has its shield, so that this runs in a child before its shield is lowered."""

    def hit() -> None:
        if arm:
            os.kill(os.getpid(), signal.SIGTERM)

    os.register_at_fork(after_in_child=hit)


def terminated_while_forked(handler: str) -> int:
    """The exit code of a child that gets SIGTERM before its fork has returned."""
    global arm

    def leave(signum: int, frame: object) -> None:
        if handler == "exits":
            sys.exit(7)
        raise ValueError(signum)

    signal.signal(signal.SIGTERM, signal.SIG_DFL if handler == "default" else leave)
    arm = True
    child = os.fork()
    arm = False
    if child == 0:
        os._exit(100)  # it has not heard of it
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "handler, code", [("default", -signal.SIGTERM), ("exits", 7), ("raises", 1)]
)
def test_a_signal_at_the_time_of_a_fork_ends_the_child(pool, handler: str, code: int) -> None:
    """Whatever its handler raises inside a fork hook would be ignored by Python."""
    p = pool(1, template_initializer=at_every_fork)
    assert p.apply_async(terminated_while_forked, (handler,)).get(DEADLINE) == code


def test_a_program_that_ignores_sigterm(pool, gate: Gate) -> None:
    """Its workers end by the pool's all the same."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        p = pool(1, kill_grace=3 * DEADLINE)
    finally:
        signal.signal(signal.SIGTERM, before)
    (pid,) = p.get_worker_pids()
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    assert r.terminate()
    wait_until(lambda: is_gone(pid), DEADLINE)


@pytest.mark.parametrize("shield", [[signal.SIGKILL], [0], [signal.SIGCHLD], [1000]])
def test_what_cannot_be_kept_off(shield: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be kept off"):
        TaskPool(1, shield=shield)


def test_a_soft_limit_would_not_get_through() -> None:
    with pytest.raises(ValueError, match="soft_signal"):
        TaskPool(1, soft_signal=signal.SIGTERM)


@pytest.mark.parametrize("shield", [5, ["SIGTERM"], [None]])
def test_no_signals(shield: object) -> None:
    with pytest.raises(TypeError):
        TaskPool(1, shield=shield)  # type: ignore[arg-type]
