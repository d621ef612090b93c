"""What docs/celery.md has in its table, in short: the same situations, without the clock.

What prefork does as well is asked of it, too (`slow`): so these tests say what Celery means.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder

from brokers import Server
from celery_run import Run
from celery_worker import Site
from guards import wait_until

LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}

both = pytest.mark.parametrize(
    "pool", ["ours", pytest.param("prefork", marks=pytest.mark.slow)], ids=str
)
ours = pytest.mark.parametrize("pool", ["ours"])


@pytest.fixture
def run(pool: str, redis_site: Site, redis: Server) -> Iterator[Callable[..., Run]]:
    """Starts a worker with that pool, on an empty Redis."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Run(redis, pool, *args, **options))


def kind(error: object) -> str:
    return type(error).__name__


@both
@pytest.mark.parametrize("broker", ["redis", "filesystem"], ids=["event loop", "threads"])
def test_a_killed_process_costs_the_task_that_it_ran(run, broker: str) -> None:
    worker = run(2, broker=broker)
    beside = worker.send("announce", 1.0, "beside")
    worker.began("beside")
    lost = worker.send("announce", 60.0, "lost")
    os.kill(int(worker.began("lost")[0]), signal.SIGKILL)
    error = worker.outcome(lost)
    assert kind(error) == "WorkerLostError"
    assert "signal 9 (SIGKILL)" in str(error)
    assert worker.outcome(beside) == int(worker.began("beside")[0])
    assert worker.outcomes([worker.send("add", n, n) for n in range(20)]) == [*range(0, 40, 2)]


@ours
def test_a_slow_initializer_is_waited_for(run) -> None:
    """prefork kills processes that are not ready after worker_proc_alive_timeout."""
    worker = run(
        1,
        "--max-tasks-per-child",
        "1",
        settings={"worker_proc_alive_timeout": 0.2},
        environment={"CELERY_TEST_INIT_SLEEP": "0.6"},
    )
    pids = worker.outcomes([worker.send("pid") for _ in range(4)])
    assert len({*pids}) == 4
    assert "SIGKILL" not in worker.log()


@ours
def test_a_lock_of_the_main_process_is_free_in_its_children(run) -> None:
    worker = run(2, "--max-tasks-per-child", "1", environment={"CELERY_TEST_INIT_LOCK": "1"})
    assert len({*worker.outcomes([worker.send("pid") for _ in range(20)])}) == 20
    assert "SIGKILL" not in worker.log()


@ours
def test_a_revoked_task_that_goes_on_harms_no_other_one(run) -> None:
    worker = run(1)
    first = worker.send("swallow", 1.0, "first")
    worker.began("first")
    worker.app.control.revoke(first.id, terminate=True)
    second = worker.send("kill_me")
    third = worker.send("add", 1, 2)
    assert kind(worker.outcome(first)) == "TaskRevokedError"
    assert kind(worker.outcome(second)) == "WorkerLostError"
    assert worker.outcome(third) == 3


@both
def test_late_tasks_come_back_until_they_have_run(run) -> None:
    worker = run(2, settings=LATE)
    results = [worker.send("count", "began", str(n), 0.02) for n in range(100)]
    for kills in range(1, 6):
        wait_until(lambda kills=kills: worker.results() >= 15 * kills)
        os.kill(worker.processes()[0], signal.SIGKILL)
    assert worker.outcomes(results) == [str(n) for n in range(100)]
    began = worker.redis().hgetall("began")
    assert len(began) == 100
    assert sum(int(times) for times in began.values()) <= 100 + kills
    wait_until(lambda: worker.waiting() == 0)  # all are acknowledged


@both
def test_a_hard_limit_ends_c_code(run) -> None:
    worker = run(1)
    result = worker.send("in_c", "in C", time_limit=0.5)
    error = worker.outcome(result)
    assert kind(error) == "TimeLimitExceeded"
    assert str(error) == "TimeLimitExceeded(0.5,)" or str(error) == "0.5", error
    assert worker.outcome(worker.send("add", 1, 2)) == 3


@both
def test_a_soft_limit_is_raised_once(run) -> None:
    worker = run(1)
    assert worker.outcome(worker.send("soft", 30.0, soft_time_limit=0.3)) == "cleaned up"
    worker.await_log("Soft time limit (0.3s) exceeded")


@ours
def test_pool_restart_waits_for_no_task(run, tmp_path) -> None:
    """prefork's ends only after the task, and submits nothing meanwhile."""
    worker = run(2, settings={"worker_pool_restarts": True})
    long = worker.send("wait_for", str(tmp_path / "go on"), "long")
    (before,) = worker.began("long")
    old = {*worker.children()}
    assert worker.control("pool_restart") == {"ok": "reload started"}
    # tasks run, and by processes that have been started since
    wait_until(lambda: worker.outcome(worker.send("pid")) not in old)
    (tmp_path / "go on").touch()
    assert worker.outcome(long) == int(before)
    wait_until(lambda: old.isdisjoint(worker.children()))


@both
def test_poison_pills_hold_up_nobody(run) -> None:
    worker = run(2)
    pills = [worker.send("kill_me") for _ in range(20)]
    good = worker.send("add", 1, 2)
    assert worker.outcome(good) == 3
    assert {kind(error) for error in worker.outcomes(pills)} == {"WorkerLostError"}


@both
def test_a_log_file_for_each_place(run) -> None:
    """`%i` is 0 in the main process, and a number from 1 on in the others, used again."""
    worker = run(2, "--max-tasks-per-child", "2", "--logfile=at-%i.log")
    pids = worker.outcomes([worker.send("log", f"line {n}") for n in range(10)])
    assert len({*pids}) >= 5
    files = {path.name: path.read_text() for path in worker.folder.glob("at-*.log")}
    assert files.keys() == {"at-0.log", "at-1.log", "at-2.log"}
    lines = Counter(n for n in range(10) for text in files.values() if f"line {n}\n" in text)
    assert lines == Counter(range(10))


@both
def test_a_task_that_ends_its_process_by_sys_exit(run) -> None:
    worker = run(1)
    error = worker.outcome(worker.send("leave", 3))
    assert kind(error) == "WorkerLostError"
    assert "exitcode 3" in str(error)
    assert worker.outcome(worker.send("add", 1, 2)) == 3


@ours
def test_tasks_may_use_multiprocessing(run) -> None:
    worker = run(1)
    value = worker.outcome(worker.send("with_multiprocessing", 5, 20))
    assert value == 20 * [[5, 4, 3, 2, 1]]


@ours
def test_what_a_task_forks_has_none_of_celerys_handlers(run) -> None:
    """They raise SystemExit for the worker's sake; multiprocessing's pools then can hang."""
    worker = run(1)
    value = worker.outcome(worker.send("dispositions_of_a_child"))
    assert value == {"child": "[True, True, False]", "here": "[False, False, False]"}


@both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT], ids=str)
def test_no_process_outlives_the_worker(run, number: int) -> None:
    worker = run(2)
    long = worker.send("announce", 2.0, "long")
    worker.began("long")
    worker.stop(number)
    wait_until(lambda: not worker.family())
    if number == signal.SIGTERM:  # warm: the task has come to its end
        assert worker.outcome(long) == int(worker.began("long")[0])


@both
def test_signals_of_the_processes(run, tmp_path) -> None:
    told = tmp_path / "told"
    environment = {"CELERY_TEST_SIGNALS_FILE": str(told)}
    worker = run(2, "--max-tasks-per-child", "3", environment=environment)
    pids = {*worker.outcomes([worker.send("pid") for _ in range(12)])}
    worker.stop()
    lines = [line.split() for line in told.read_text().splitlines()]
    began = [int(pid) for word, pid, *_ in lines if word == "init"]
    ended = [int(pid) for word, pid, *_ in lines if word == "shutdown"]
    assert len(began) == len({*began}) and len(ended) == len({*ended})
    assert pids <= {*began} == {*ended}


@both
def test_a_result_that_cannot_be_pickled_or_encoded(run) -> None:
    worker = run(1)
    assert kind(worker.outcome(worker.send("unpicklable_result"))) == "EncodeError"
    assert worker.outcome(worker.send("add", 1, 2)) == 3


@both
def test_a_memory_limit_replaces_the_process_after_its_task(run) -> None:
    worker = run(1, "--max-memory-per-child", "200000")
    first = worker.outcome(worker.send("allocate", 300))
    # it is looked at when the task has ended: the next one may still come to the same process
    wait_until(lambda: worker.outcome(worker.send("pid")) != first)
    assert worker.outcome(worker.send("add", 1, 2)) == 3
