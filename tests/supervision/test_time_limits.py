"""Time limits: soft and hard ones, expires; and that they hit the right task.

As a program: python tests/supervision/test_time_limits.py [tasks] runs the race of
`test_tasks_as_long_as_the_limit` with so many tasks (100,000 unless said).
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import limit_targets
import tasks
from celery_pool import (
    PoolError,
    SoftTimeLimitExceeded,
    TaskExpired,
    TaskPool,
    TimeLimitExceeded,
)
from guards import wait_until
from support import DEADLINE, Background, Calls, at_rest, in_time, is_gone, took


def works_again(p, old):
    """All workers there, none of them in `old`, and doing tasks."""
    wait_until(
        lambda: len(p.get_worker_pids()) == p.processes and not set(old) & set(p.get_worker_pids()),
        DEADLINE,
        "replacement",
    )
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


# ---- soft ----


@pytest.mark.parametrize("whose", ["pool", "task"])
def test_soft_is_raised_inside_the_task(pool, start_method, whose):
    p = pool(1, **({"soft_timeout": 0.2} if whose == "pool" else {}))
    old = p.get_worker_pids()
    options = {"soft_timeout": 0.2} if whose == "task" else {}
    # the first one of a worker imports its module, and that takes its time
    p.apply_async(limit_targets.handler_of, (signal.SIGUSR2,), timeout=100, soft_timeout=50).get(
        DEADLINE
    )
    text, seconds = p.apply_async(limit_targets.catches, **options).get(DEADLINE)
    assert "soft_timeout" in text
    assert seconds > 0.05  # the clock starts before the arguments are unpickled
    assert in_time(seconds, 2)
    assert p.get_worker_pids() == old
    statistics = p.statistics()
    assert (statistics.succeeded, statistics.exits) == (2, {"soft_limit": 1})


def test_soft_in_a_python_loop(pool):
    p = pool(1, soft_timeout=0.1)
    assert p.apply_async(limit_targets.catches_in_a_loop).get(DEADLINE) is True


def test_soft_in_the_main_thread(pool):
    """Also when the task has threads of its own."""
    p = pool(1, soft_timeout=0.1)
    assert p.apply_async(limit_targets.catches_beside_a_thread).get(DEADLINE) == (True, True)


@pytest.mark.parametrize("kind", ["sleep", "python", "regex"])
def test_soft_uncaught_fails_the_task(pool, kind):
    p = pool(1, soft_timeout=0.1)
    old = p.get_worker_pids()
    bad = Calls()
    r = p.apply_async(limit_targets.endless, (kind,), errbacks=bad, meta="m")
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        r.get(DEADLINE)
    assert isinstance(caught.value, PoolError)
    assert not isinstance(caught.value, TimeoutError)
    assert limit_targets.ENDLESS[kind].__name__ in str(caught.value.__cause__)
    assert bad.calls == [(caught.value, "m")]
    assert p.apply_async(tasks.pid).get(DEADLINE) == old[0]


def test_soft_swallowed_is_raised_once(pool):
    p = pool(1)
    r = p.apply_async(limit_targets.swallows, (1,), soft_timeout=0.1, timeout=1.5)
    with pytest.raises(TimeLimitExceeded) as caught:  # it waits for a second one
        p.apply_async(limit_targets.swallows, (2,), soft_timeout=0.1, timeout=1.5).get(DEADLINE)
    assert "swallows" in caught.value.stack
    assert len(r.get(DEADLINE)) == 1


def test_soft_swallowed_is_raised_again_if_asked_for(pool):
    p = pool(1, soft_limit_repeat=1)
    seen = p.apply_async(limit_targets.swallows, (3,), soft_timeout=0.1).get(DEADLINE)
    for n, seconds in enumerate(seen):
        assert seconds > 0.09 + 0.95 * n
    for earlier, later in zip([0, *seen], seen, strict=False):
        assert in_time(later - earlier, 1.6 if earlier else 0.6)
    assert p.statistics().exits == {"soft_limit": 1}  # tasks, not signals


def test_soft_then_hard(pool):
    p = pool(1, soft_timeout=0.1, timeout=0.4)
    r = p.apply_async(limit_targets.swallows, (100,))
    with pytest.raises(TimeLimitExceeded):
        r.get(DEADLINE)
    assert p.statistics().exits["soft_limit"] == 1


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGALRM])
def test_the_signal_is_a_parameter(pool, signum):
    p = pool(1, soft_signal=signum, soft_timeout=0.1)
    assert p.apply_async(limit_targets.catches).get(DEADLINE)[0]
    assert p.apply_async(limit_targets.handler_of, (signum,)).get(DEADLINE)
    assert not p.apply_async(limit_targets.handler_of, (signal.SIGUSR1,)).get(DEADLINE)


def test_the_signal_without_a_limit_does_nothing(pool, gate):
    p = pool(1)
    r = p.apply_async(tasks.pass_gate, (gate.path, 5))
    (pid,) = gate.await_tasks()
    for _ in range(5):
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.002)
    gate.open()
    assert r.get(DEADLINE) == 5


# ---- hard ----


@pytest.mark.parametrize("kind", limit_targets.ENDLESS)
def test_hard_ends_the_task_by_name(pool, kind):
    p = pool(1, timeout=0.2)
    old = p.get_worker_pids()
    bad = Calls()
    start = time.monotonic()
    r = p.apply_async(limit_targets.endless, (kind,), errbacks=bad, meta="m")
    with pytest.raises(TimeLimitExceeded) as caught:
        r.get(DEADLINE)
    assert took(start, 3) > 0.19
    error = caught.value
    assert not isinstance(error, (TimeoutError, multiprocessing.TimeoutError))
    assert (error.timeout, error.pid, error.tid) == (0.2, old[0], r.tid)
    assert limit_targets.ENDLESS[kind].__name__ in error.stack
    assert "limit_targets.py" in error.stack
    # the task's own frames only, below a heading for its thread
    assert error.stack.splitlines()[-1].endswith("in endless")
    assert not {"celery_pool", "multiprocessing"} & {*error.stack.replace("/", " ").split()}
    for text in (str(error), repr(error)):
        assert "\n" not in text
        assert str(r.tid) in text
    assert bad.calls == [(error, "m")]
    assert r.worker_pid == old[0]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    works_again(p, old)
    assert p.statistics().exits == {"hard_limit": 1}
    assert p.statistics().lost == 0


def test_hard_under_each_start_method(pool, start_method):
    # its module is imported with the plan, not within the limit
    p = pool(4, processes=2, timeout=0.2, initializer=id, initargs=(limit_targets.endless,))
    old = p.get_worker_pids()
    results = [p.apply_async(limit_targets.endless, ("sleep",)) for _ in range(2)]
    for r in results:
        with pytest.raises(TimeLimitExceeded) as caught:
            r.get(DEADLINE)
        assert len(caught.value.stack.splitlines()) == 3  # heading, sleep_long, endless
    works_again(p, old)


def test_the_stack_has_all_threads_of_the_task(pool):
    p = pool(1, timeout=0.3)
    with pytest.raises(TimeLimitExceeded) as caught:
        p.apply_async(limit_targets.with_thread).get(DEADLINE)
    stack = caught.value.stack
    assert stack.count("hread 0x") == 2
    assert "loop_in_python" in stack
    assert "with_thread" in stack.splitlines()[-1]


@pytest.mark.parametrize("kind", ["sleep", "c"])
def test_hard_when_sigterm_is_ignored(pool, kind):
    """The task has failed at its limit; its worker has until the grace is over."""
    p = pool(1, hard_grace=8)
    old = p.get_worker_pids()
    start = time.monotonic()
    r = p.apply_async(limit_targets.endless, (kind, None, True), timeout=0.2)
    queued = p.apply_async(tasks.same, (1,))
    with pytest.raises(TimeLimitExceeded) as caught:
        r.get(DEADLINE)
    took(start, 4)
    assert limit_targets.ENDLESS[kind].__name__ in caught.value.stack
    assert not is_gone(old[0])
    assert not queued.ready()  # the worker that does not end has its seat until it is gone
    os.kill(old[0], signal.SIGKILL)
    assert queued.get(DEADLINE) == 1
    works_again(p, old)


def test_hard_grace_is_over(pool):
    p = pool(1, kill_grace=DEADLINE, hard_grace=0.1)
    old = p.get_worker_pids()
    with pytest.raises(TimeLimitExceeded):
        p.apply_async(limit_targets.endless, ("c", None, True), timeout=0.1).get(DEADLINE)
    works_again(p, old)


def test_hard_when_the_worker_is_stopped(pool, gate):
    p = pool(1, kill_grace=0.1)
    r = p.apply_async(tasks.pass_gate, (gate.path,), timeout=0.2)
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeLimitExceeded) as caught:
        r.get(DEADLINE)
    assert caught.value.stack == ""
    works_again(p, [pid])


@pytest.mark.parametrize("deaf", [False, True], ids=["ends by SIGTERM", "ignores SIGTERM"])
def test_the_process_group_goes_too(pool, tmp_path, deaf):
    p = pool(1, kill_group=True, kill_grace=0.1)
    path = str(tmp_path / "child")
    r = p.apply_async(limit_targets.with_child, (path, deaf))
    tasks.wait_for_file(path)
    child = int(Path(path).read_text())
    assert not is_gone(child)
    r.terminate()
    with pytest.raises(PoolError):
        r.get(DEADLINE)
    try:
        wait_until(lambda: is_gone(child), 3, "the task's child is gone")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_what_waits_behind_a_killed_task_does_not_wait_for_its_grace(pool, tmp_path):
    p = pool(None, processes=2, kill_grace=8)
    mark = str(tmp_path / "mark")
    r = p.apply_async(limit_targets.endless, ("sleep", mark, True), timeout=0.3)
    tasks.wait_for_file(mark)
    others = [p.apply_async(time.sleep, (0.05,)) for _ in range(20)]
    start = time.monotonic()
    for other in others:
        other.get(DEADLINE)
    took(start, 5)
    with pytest.raises(TimeLimitExceeded):
        r.get(DEADLINE)
    p.terminate()


def test_a_tasks_own_limit_instead_of_the_pools(pool):
    p = pool(2, timeout=0.2, soft_timeout=0.1)
    start = time.monotonic()
    longer = p.apply_async(time.sleep, (0.5,), timeout=20, soft_timeout=10)
    shorter = p.apply_async(limit_targets.swallows, (9,), timeout=0.1, soft_timeout=0.05)
    with pytest.raises(TimeLimitExceeded) as caught:
        shorter.get(DEADLINE)
    assert caught.value.timeout == 0.1
    assert longer.get(DEADLINE) is None
    took(start, 5)
    unlimited = {"timeout": float("inf"), "soft_timeout": float("inf")}
    assert p.apply_async(time.sleep, (0.4,), **unlimited).get(DEADLINE) is None


def test_the_clock_starts_with_the_task(pool):
    """Waiting for a worker does not count."""
    p = pool(None, processes=1, timeout=0.3, soft_timeout=0.25)
    results = [p.apply_async(time.sleep, (0.08,)) for _ in range(10)]
    for r in results:
        r.get(DEADLINE)
    assert p.statistics().exits == {}


def test_limits_of_tasks_that_wait_for_long(pool, gate):
    """In the ring and in the backlog; each is measured from its own start."""
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    quick = [p.apply_async(tasks.same, (i,), timeout=1.0) for i in range(6000)]
    slow = p.apply_async(limit_targets.sleep_long, timeout=0.2)
    after = p.apply_async(tasks.same, ("after",), timeout=1.0)
    time.sleep(0.3)
    assert not slow.ready()
    gate.open()
    first.get(DEADLINE)
    assert [r.get(DEADLINE) for r in quick] == list(range(6000))
    with pytest.raises(TimeLimitExceeded):
        slow.get(DEADLINE)
    assert after.get(DEADLINE) == "after"


def test_a_limit_does_not_wait_for_a_slow_callback(pool):
    p = pool(2)
    entered, go_on = threading.Event(), threading.Event()

    def slow(value, meta):
        entered.set()
        go_on.wait(DEADLINE)

    p.apply_async(tasks.nothing, callbacks=slow)
    assert entered.wait(DEADLINE)
    try:
        r = p.apply_async(limit_targets.endless, ("sleep",), timeout=0.2)
        with pytest.raises(TimeLimitExceeded):
            r.get(3)
    finally:
        go_on.set()


def test_a_short_limit_of_the_past_costs_nothing_later(pool):
    """Who waits for tasks with long limits looks seldom."""
    p = pool(4, processes=2, timeout=60)
    p.apply_async(tasks.nothing, timeout=0.001).wait(DEADLINE)
    r = p.apply_async(time.sleep, (0.8,))
    time.sleep(0.1)
    before = time.process_time()
    r.wait(DEADLINE)
    assert time.process_time() - before < 0.1


# ---- expires ----


def seconds_from_now(seconds):
    return seconds


def naive(seconds):
    return datetime.datetime.now() + datetime.timedelta(seconds=seconds)


def aware(seconds):
    zone = datetime.timezone(datetime.timedelta(hours=5))
    return datetime.datetime.now(zone) + datetime.timedelta(seconds=seconds)


@pytest.mark.parametrize("form", [seconds_from_now, naive, aware])
def test_expires_while_the_worker_is_busy(pool, gate, tmp_path, form):
    p = pool(4, processes=1)
    log = str(tmp_path / "log")
    bad = Calls()
    first = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    start = time.monotonic()
    r = p.apply_async(tasks.append, (log, "x"), expires=form(0.2), errbacks=bad, meta="m")
    kept = p.apply_async(tasks.same, (2,), expires=form(30))
    with pytest.raises(TaskExpired) as caught:
        r.get(DEADLINE)
    assert took(start, 2) > 0.15
    assert caught.value.tid == r.tid
    assert isinstance(caught.value, PoolError)
    assert bad.calls == [(caught.value, "m")]
    gate.open()
    assert (first.get(DEADLINE), kept.get(DEADLINE)) == (1, 2)
    assert not os.path.exists(log)
    assert p.statistics().expired == 1


def test_expires_in_the_backlog(pool, gate):
    p = pool(None, processes=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    for _ in range(5000):
        p.apply_async(tasks.nothing)
    late = [p.apply_async(tasks.nothing, expires=0.05) for _ in range(50)]
    for r in late:
        with pytest.raises(TaskExpired):
            r.get(DEADLINE)
    gate.open()
    first.get(DEADLINE)
    wait_until(lambda: at_rest(p), DEADLINE)
    statistics = p.statistics()
    assert (statistics.succeeded, statistics.expired) == (5001, 50)


@pytest.mark.parametrize("expires", [0, -1, -1e30, float("-inf")])
def test_expired_from_the_beginning(pool, tmp_path, expires):
    log = str(tmp_path / "log")
    p = pool(2)
    for _ in range(20):
        with pytest.raises(TaskExpired):
            p.apply_async(tasks.append, (log, "x"), expires=expires).get(DEADLINE)
    assert not os.path.exists(log)


def test_expired_while_the_worker_was_stopped(pool, tmp_path):
    log = str(tmp_path / "log")
    p = pool(2, processes=1)
    (pid,) = p.get_worker_pids()
    os.kill(pid, signal.SIGSTOP)
    r = p.apply_async(tasks.append, (log, "x"), expires=0.1)
    try:
        with pytest.raises(TaskExpired):
            r.get(DEADLINE)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert not os.path.exists(log)


def test_a_started_task_does_not_expire(pool):
    p = pool(1)
    assert p.apply_async(time.sleep, (0.4,), expires=0.2).get(DEADLINE) is None
    assert p.apply_async(tasks.same, (1,), expires=float("inf")).get(DEADLINE) == 1
    assert p.statistics().expired == 0


def test_never_acknowledged_when_expired(pool, gate):
    p = pool(3, processes=1)
    p.apply_async(tasks.pass_gate, (gate.path,))
    acks = Calls()
    r = p.apply_async(tasks.nothing, expires=0.05, on_acknowledge=acks, accept_callback=acks)
    with pytest.raises(TaskExpired):
        r.get(DEADLINE)
    gate.open()
    p.close()
    assert p.join(DEADLINE)
    assert not acks.calls


# ---- values ----


@pytest.mark.parametrize("name", ["soft_timeout", "timeout"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_bad_limits(pool, name, value, error):
    with pytest.raises(error, match=name if error is ValueError else None):
        TaskPool(2, context="fork", **{name: value})
    p = pool(1)
    with pytest.raises(error, match=name if error is ValueError else None):
        p.apply_async(tasks.nothing, **{name: value})
    assert p.statistics().submitted == 0
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize(
    ("expires", "error"),
    [("soon", TypeError), (float("nan"), ValueError), (object(), TypeError)],
)
def test_bad_expires(pool, expires, error):
    p = pool(1)
    with pytest.raises(error):
        p.apply_async(tasks.nothing, expires=expires)
    assert p.statistics().submitted == 0


@pytest.mark.parametrize(
    ("signum", "error"),
    [
        (0, ValueError),
        (1000, ValueError),
        ("SIGUSR1", (TypeError, ValueError)),
        (signal.SIGKILL, ValueError),
        (signal.SIGSTOP, ValueError),
    ],
)
def test_bad_soft_signals(signum, error):
    with pytest.raises(error):
        TaskPool(1, context="fork", soft_signal=signum)


# ---- the right task ----


def race(count, limit, path, processes, report=None, method="fork"):
    """Tasks that end within a millisecond of their limit, and between them some
    without a limit. Every one has its own outcome; returns how many of which kind."""
    rng = random.Random(count)
    p = TaskPool(64, processes=processes, context=method, kill_grace=0.5)
    p.run()
    outcomes = {}

    def ended(value, meta):
        assert meta not in outcomes
        outcomes[meta] = value

    results = {}
    kinds = {}
    try:
        for number in range(count):
            kinds[number] = kind = rng.choice(("hard", "hard", "soft", "caught", "free"))
            seconds = limit + rng.uniform(-0.001, 0.001) if kind != "free" else 0.0
            limits = {"hard": {"timeout": limit}, "free": {}}.get(kind, {"soft_timeout": limit})
            results[number] = p.apply_async(
                limit_targets.recorded,
                (path, number, seconds, kind == "caught"),
                callbacks=ended,
                errbacks=ended,
                meta=number,
                **limits,
            )
            if report and not number % 1000:
                report(number, p.statistics())
        p.close()
        assert p.join(60 + count / 20), (p.statistics(), sorted(set(results) - set(outcomes)))
    finally:
        p.terminate()
    started = collections.Counter(
        int(line.split()[1]) for line in Path(path).read_text().splitlines()
    )
    assert sorted(outcomes) == list(range(count))
    counts: collections.Counter[str] = collections.Counter()
    for number, value in outcomes.items():
        kind = kinds[number]
        if isinstance(value, TimeLimitExceeded):
            assert kind == "hard", (number, kind, value)
            assert value.tid == results[number].tid
            # ended perhaps before its first line
            assert started[number] <= 1
            counts["hard limit"] += 1
        elif isinstance(value, SoftTimeLimitExceeded):
            assert kind in ("soft", "caught"), (number, kind, value)
            # ended perhaps before its first line
            assert started[number] <= 1
            counts["soft limit"] += 1
        else:
            assert not isinstance(value, BaseException), (number, kind, value)
            assert value[0] == number
            assert not value[1] or kind == "caught"
            assert started[number] == 1 or (value[1] and not started[number])
            counts["soft limit, caught" if value[1] else "success"] += 1
    statistics = p.statistics()
    assert statistics.submitted == count == statistics.succeeded + statistics.failed
    assert statistics.failed == counts["hard limit"] + counts["soft limit"]
    assert statistics.lost == 0
    assert statistics.exits.get("hard_limit", 0) == counts["hard limit"]
    return counts


def test_tasks_as_long_as_the_limit(tmp_path):
    """Each ends as success or as its own timeout, none is lost, no other is hit."""
    counts = Background(race, 400, 0.008, str(tmp_path / "log"), 4).result(50)
    assert counts["hard limit"] > 10
    assert counts["success"] > 50


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000

    def report(number, statistics):
        print(number, dict(statistics.exits), flush=True)

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        counts = race(count, 0.008, str(Path(directory, "log")), 4, report)
    print(f"{count} tasks in {time.monotonic() - start:.0f} s: {dict(counts)}")


if __name__ == "__main__":
    main()
