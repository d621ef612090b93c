"""TaskPoolExecutor: shutdown, exit, and under asyncio."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest

import tasks
from celery_pool import (
    TaskPool,
    TaskPoolExecutor,
    WorkerLostError,
    WrongProcess,
)
from executors import pids_of
from guards import wait_until
from processes import in_forked_child
from support import DEADLINE, Background, Calls, Gate, run_script, stays

# ---- end ----


def test_nothing_starts_before_the_first_submission(executor):
    threads = threading.active_count()
    one = executor()
    assert pids_of(one) == [] and threading.active_count() == threads
    one.shutdown()
    one.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        one.submit(tasks.nothing)


def test_shutdown_finishes_what_was_submitted(executor, start_method):
    one = executor()
    futures = [one.submit(tasks.same, i) for i in range(1000)]
    one.shutdown()
    assert all(f.done() for f in futures)
    assert [f.result() for f in futures] == list(range(1000))
    assert pids_of(one) == []
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        one.submit(tasks.nothing)


def test_shutdown_without_waiting_then_with(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor()
    futures = [one.submit(tasks.pass_gate, gate.path, i) for i in range(5)]
    gate.await_tasks(2)
    one.shutdown(wait=False)
    assert not any(f.done() for f in futures)
    late = Background(one.shutdown)
    one.shutdown(wait=False, cancel_futures=True)
    assert sum(f.cancelled() for f in futures) == 3
    assert stays(lambda: not late.done, 0.05)
    gate.open()
    late.result()
    assert all(f.done() for f in futures)


def test_shutdown_from_a_callback(executor):
    one = executor()
    ended = Calls()

    def end(future):
        one.shutdown(wait=True)
        ended(future)

    one.submit(time.sleep, 0.05).add_done_callback(end)
    others = [one.submit(tasks.same, i) for i in range(10)]
    ended.wait()
    one.shutdown()
    assert [f.result() for f in others] == list(range(10))


def test_shutdown_from_threads(executor):
    one = executor()
    futures = [one.submit(tasks.same, i) for i in range(2000)]
    for thread in [Background(one.shutdown) for _ in range(4)]:
        thread.result()
    assert all(f.done() for f in futures)


def test_submissions_race_with_shutdown(executor):
    for _ in range(10):
        one = executor()
        accepted = []

        def submit():
            for i in range(100000):
                accepted.append((one.submit(tasks.same, i), i))

        one.submit(tasks.nothing).result(DEADLINE)
        thread = Background(submit)
        wait_until(lambda: accepted, DEADLINE, "submissions")
        one.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            thread.result()
        assert all(future.result(DEADLINE) == i for future, i in accepted)


def test_first_submissions_of_many_threads(executor, start_method):
    one = executor()
    threads = [Background(one.submit, tasks.same, i) for i in range(8)]
    assert [t.result().result(DEADLINE) for t in threads] == list(range(8))
    assert len(pids_of(one)) <= 2


def test_leaving_the_block_by_an_error_finishes_too(executor):
    futures = []
    with pytest.raises(ZeroDivisionError), executor() as one:
        futures += [one.submit(tasks.same, i) for i in range(10)]
        raise ZeroDivisionError
    assert [f.result(0) for f in futures] == list(range(10))


def test_a_dropped_executor_finishes_its_work():
    one = TaskPoolExecutor(2, "fork")
    gone = weakref.ref(one)
    futures = [one.submit(tasks.same, i) for i in range(100)]
    one.submit(tasks.nothing).add_done_callback(tasks.nothing)
    del one
    assert gone() is None
    assert [f.result(DEADLINE) for f in futures] == list(range(100))
    # the leak guard sees that workers and threads go


def test_a_dropped_executor_that_broke():
    one = TaskPoolExecutor(2, "fork", lost_breaks_pool=True)
    assert isinstance(one.submit(tasks.die).exception(DEADLINE), BrokenProcessPool)
    del one


def test_nested_submissions_of_tasks(executor):
    one = executor()
    assert one.submit(executor_in_a_task).result(DEADLINE) == [1, 4, 9]


def executor_in_a_task():
    with TaskPoolExecutor(1, "fork") as inner:
        return list(inner.map(tasks.square, [1, 2, 3]))


def test_a_forked_child_cannot_use_it(executor):
    one = executor()
    one.submit(tasks.nothing).result(DEADLINE)

    def in_child():
        try:
            one.submit(tasks.nothing)
        except WrongProcess:
            one.shutdown(cancel_futures=True)
            one.kill_workers()
            with TaskPoolExecutor(1, "fork") as own:
                return own.submit(tasks.same, 5).result(DEADLINE)

    assert in_forked_child(in_child) == ("returned", 5)
    assert one.submit(tasks.same, 1).result(DEADLINE) == 1


EXIT = """
import sys, time
from celery_pool import TaskPoolExecutor
import tasks
if __name__ == "__main__":
    executor = TaskPoolExecutor(2, sys.argv[1])
    for i in range(4):
        executor.submit(time.sleep, 0.2).add_done_callback(lambda f: print("done", flush=True))
    {how}
"""


@pytest.mark.parametrize("how", ["pass", "executor.shutdown(wait=False)", "del executor",
                                 "raise SystemExit(0)"])  # fmt: skip
def test_the_interpreter_exits_after_the_work(how):
    done = run_script(EXIT.format(how=how), "fork")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done"] * 4, "")


def test_the_interpreter_exits_after_the_work_by_start_method(start_method):
    done = run_script(EXIT.format(how="pass"), start_method)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done"] * 4, "")


def test_a_forked_child_exits_without_waiting_for_its_parents_work():
    done = run_script(
        """
import os, sys, warnings
from celery_pool import TaskPoolExecutor
executor = TaskPoolExecutor(1, "fork")
executor.submit(abs, -1).result()
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert executor.submit(abs, -2).result() == 2
print("fine")
"""
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "fine", "")


def test_submit_at_exit_is_refused():
    done = run_script(
        """
import atexit
from celery_pool import TaskPoolExecutor
executor = TaskPoolExecutor(1, "fork")
executor.submit(abs, -1).result()
@atexit.register
def late():
    for one in (executor, TaskPoolExecutor(1, "fork")):
        try:
            one.submit(abs, 1)
        except RuntimeError as error:
            print(error)
"""
    )
    assert (
        done.stdout.splitlines() == ["cannot schedule new futures after interpreter shutdown"] * 2
    ), done.stderr


# ---- asyncio ----


def test_asyncio(executor, start_method):
    one = executor()

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(one, tasks.square, 3) == 9
        many = [loop.run_in_executor(one, tasks.square, i) for i in range(200)]
        assert await asyncio.gather(*many) == [i * i for i in range(200)]
        with pytest.raises(ValueError, match="x"):
            await loop.run_in_executor(one, tasks.fail, ValueError, "x")
        with pytest.raises(WorkerLostError):
            await loop.run_in_executor(one, tasks.die)
        return await asyncio.wrap_future(one.submit(tasks.square, 5))

    assert asyncio.run(main()) == 25


def test_asyncio_cancels_what_has_not_started(executor, tmp_path):
    gate = Gate(tmp_path)
    one = executor(1)
    path = tmp_path / "ran"

    async def main():
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(one, tasks.pass_gate, gate.path, 1)
        second = loop.run_in_executor(one, tasks.append, str(path), "x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second, 0.1)
        gate.open()
        return await first

    assert asyncio.run(main()) == 1
    one.shutdown()
    assert not path.exists()


def test_a_signal_handler_shuts_down_during_the_first_submission(monkeypatch, start_method):
    executor = TaskPoolExecutor(1, mp_context=start_method)
    run = TaskPool.run

    def interrupted(self, **options):
        signal.raise_signal(signal.SIGUSR2)
        run(self, **options)

    monkeypatch.setattr(TaskPool, "run", interrupted)
    before = signal.signal(signal.SIGUSR2, lambda *_: executor.shutdown(wait=False))
    try:
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(tasks.nothing)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert Background(executor.shutdown).result(DEADLINE) is None
    assert executor._life.pool.get_worker_pids() == []
