"""`celery-pool stack`: Python stacks of a program with a pool, and of its workers."""

from __future__ import annotations

import fcntl
import os
import signal
import threading

import pytest

import tasks
from celery_pool.host import dumps
from celery_pool.host.signals import catches, has_default_action
from celery_pool.observe.outside import descriptors
from celery_pool.observe.stacks import FILE, NoAnswer, Question, stacks_of
from guards import wait_until
from processes import in_forked_child
from support import DEADLINE, Background, is_gone
from watched import look

#: Other threads' stacks are read while they run: a frame may be missing then.
LONG = 60.0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_at_work_and_the_program(watched, gate, method):
    program = watched(method)
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (at_work,) = gate.await_tasks()
    (idle,) = set(program.workers()) - {at_work}
    text = look("stack", program.pid).stdout
    worker, parent = text.split(f"process {program.pid}, which runs the pool\n")
    heading, _, stack = worker.partition("\n")
    assert heading.startswith(f"worker {at_work} of TaskPool-1, busy: task 1, tasks.pass_gate, for")
    assert " in wait_for_file\n" in stack and " in pass_gate\n" in stack
    assert "worker_main" not in stack  # nor what lies below it
    assert " in main\n" in parent and "watched.py" in parent  # its main thread
    assert "supervisor.py" in parent  # and another one
    assert str(idle) not in text


def test_all_workers_or_one(watched, gate):
    program = watched()
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (at_work,) = gate.await_tasks()
    (idle,) = set(program.workers()) - {at_work}
    text = look("stack", "--all", program.pid).stdout
    assert f"worker {idle} of TaskPool-1, idle\n" in text
    assert "(no Python code of the program's)" in text
    text = look("stack", "--worker", at_work, program.pid).stdout
    assert "pass_gate" in text and "process" not in text
    said = look("stack", "--worker", 1, program.pid, status=1).stderr
    assert said == f"celery-pool stack: process 1 is no worker of process {program.pid}\n"


def test_a_program_that_hangs_in_c(watched, tmp_path):
    program = watched()
    program.tell(f"hang_with_the_gil({str(tmp_path / 'hangs')!r})")
    wait_until((tmp_path / "hangs").exists, DEADLINE)
    assert " in hang_with_the_gil\n" in look("stack", program.pid).stdout
    assert " in hang_with_the_gil\n" in look("stack", program.pid).stdout


def test_a_worker_that_hangs_in_c(watched, tmp_path):
    program = watched()
    program.do(f"submit(hang_with_the_gil, {str(tmp_path / 'hangs')!r})")
    wait_until((tmp_path / "hangs").exists, DEADLINE)
    assert " in hang_with_the_gil\n" in look("stack", program.pid).stdout


def test_a_stopped_program(watched, gate):
    program = watched()
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    gate.await_tasks()
    os.kill(program.pid, signal.SIGSTOP)
    done = look("stack", program.pid, status=1)
    assert " in pass_gate\n" in done.stdout  # the worker answers
    assert done.stderr == (
        f"celery-pool stack: process {program.pid} is stopped: "
        "it tells its stacks when it goes on (SIGCONT)\n"
    )
    os.kill(program.pid, signal.SIGCONT)
    assert program.do("1") == 1


def test_a_worker_whose_task_has_reset_the_signal(watched, gate):
    program = watched(processes=1)
    program.do(f"submit(reset, {dumps.dump_signal()})")
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (pid,) = gate.await_tasks()
    said = look("stack", program.pid, status=1).stderr
    assert said == (
        f"celery-pool stack: process {pid} does not tell its stacks: "
        "a task has reset its signal handlers\n"
    )
    assert not is_gone(pid)


def test_a_program_that_uses_the_signal_itself(watched, gate):
    program = watched(before=f"reset({dumps.dump_signal()}, lambda *args: None)")
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    gate.await_tasks()
    done = look("stack", program.pid, status=1)
    assert " in pass_gate\n" in done.stdout
    assert done.stderr == (
        f"celery-pool stack: process {program.pid} does not tell its stacks: "
        "it has no file for them\n"
    )


def test_a_worker_in_its_initializer(watched, gate):
    program = watched()
    program.do(
        "globals().update(slow=TaskPool(1, context='fork', "
        f"initializer=tasks.initialize_slowly, initargs=({gate.path!r},)))"
    )
    program.do("slow.run(wait=False)")
    gate.await_tasks()
    assert ", starting\n" in (text := look("stack", program.pid).stdout)
    assert " in initialize_slowly\n" in text
    gate.open()


def test_a_text_is_whole(watched):
    """As many threads as there are, each time."""
    program = watched()
    program.do("have_threads(40)")
    for _ in range(20):
        (text,) = stacks_of([program.pid], LONG).values()
        assert text.count(" in wait_in_a_thread\n") == 40
        assert " in main\n" in text
        assert "\0" not in text  # nothing is left of the one before


def test_two_who_ask(watched):
    program = watched()
    program.do("have_threads(40)")
    both = [Background(stacks_of, [program.pid], LONG) for _ in range(2)]
    for one in both:
        (text,) = one.result(LONG).values()
        assert text.count(" in wait_in_a_thread\n") == 40


def test_who_asks_waits_his_turn(watched):
    program = watched()
    with Question(program.pid) as first:
        first.ask(0.0)
        assert stacks_of([program.pid], 0.05)[program.pid].args == (
            "is being asked by another program",
        )
    (text,) = stacks_of([program.pid], LONG).values()
    assert " in main\n" in text


def test_a_process_that_has_ended(watched, gate):
    program = watched()
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), DEADLINE)
    answer = stacks_of([pid])[pid]
    assert isinstance(answer, NoAnswer)


# ---- the other side ----


def offered():
    return len(descriptors(os.getpid(), FILE))


def taken():
    return catches(os.getpid(), dumps.dump_signal())


def test_one_file_for_all_pools_as_long_as_there_are_some(pool):
    first, second = pool(2), pool(2)
    wait_until(lambda: offered() == 1 and taken(), DEADLINE)
    first.terminate()
    assert offered() == 1 and taken()
    assert " in test_one_file_for_all_pools" in stacks_of([os.getpid()])[os.getpid()]
    second.terminate()
    assert offered() == 0
    assert has_default_action(os.getpid(), dumps.dump_signal())


def test_a_forked_child_offers_nothing(pool):
    pool(2)
    wait_until(lambda: offered() == 1, DEADLINE)
    child = in_forked_child(
        lambda: (offered(), has_default_action(os.getpid(), dumps.dump_signal()))
    )
    assert child == ("returned", (0, True))
    assert offered() == 1 and taken()


def test_a_worker_has_its_own(pool):
    one = pool(1, processes=1)
    found = one.apply_async(tasks.descriptors).get(DEADLINE)
    assert found.count(FILE) == 1


def test_the_file_stays_while_somebody_asks(pool):
    """Whose signal would end this process otherwise."""
    one = pool(2)
    wait_until(lambda: offered() == 1, DEADLINE)
    (fd,) = descriptors(os.getpid(), FILE)
    asks = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        fcntl.flock(asks, fcntl.LOCK_EX)
        one.terminate()
        assert offered() == 2 and taken()  # its own, and that of the one who asks
    finally:
        os.close(asks)
    one.run()
    one.terminate()
    assert offered() == 0 and not taken()


def test_a_handler_that_came_later_stays(pool):
    one = pool(2)
    wait_until(lambda: offered() == 1, DEADLINE)
    came = threading.Event()
    signal.signal(dumps.dump_signal(), lambda *args: came.set())
    try:
        one.terminate()
        assert offered() == 0
        signal.raise_signal(dumps.dump_signal())
        assert came.wait(DEADLINE)
    finally:
        signal.signal(dumps.dump_signal(), signal.SIG_DFL)
