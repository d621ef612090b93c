"""A rolling restart: fresh workers of the program as it is now, no task lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

import tasks
from celery_pool import PoolNotRunning, TaskPool
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, Log, is_gone, stays

METHODS = ["fork", "forkserver", "spawn"]
VERSION = "old"


def version() -> str:
    return VERSION


def await_renewed(p, old):
    wait_until(lambda: not set(old) & set(p.get_worker_pids()), DEADLINE)
    wait_until(lambda: all(is_gone(pid) for pid in old), DEADLINE)
    wait_until(lambda: p.ready == p.processes, DEADLINE)


def test_workers_see_the_program_as_it_is_now(pool, monkeypatch):
    p = pool(None, processes=2, context="fork")
    assert p.apply_async(version).get(DEADLINE) == "old"
    monkeypatch.setattr("test_renew.VERSION", "new")
    old = p.get_worker_pids()
    p.renew()
    await_renewed(p, old)
    assert {p.apply_async(version).get(DEADLINE) for _ in range(10)} == {"new"}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_meanwhile(pool, method):
    p = pool(100, processes=4, context=method, callbacks_in="caller")
    old = p.get_worker_pids()
    descriptor = p.fileno()
    good, bad = Calls(), Calls()
    submitted = 0
    p.renew()
    while set(old) & set(p.get_worker_pids()) or submitted < 1000:
        p.apply_async(tasks.nothing, callbacks=good, errbacks=bad)
        submitted += 1
        assert len(p.get_worker_pids()) <= 4
    await_renewed(p, old)
    while p.statistics().in_flight:
        p.reap(DEADLINE)
    p.reap()
    assert (len(good), len(bad)) == (submitted, 0)
    assert p.fileno() == descriptor
    wait_until(lambda: p.statistics().exits == {"renewed": 4}, DEADLINE)


def test_who_runs_a_task_ends_it_first(pool, gate):
    p = pool(None, processes=2)
    old = p.get_worker_pids()
    long = p.apply_async(tasks.pass_gate, (gate.path, "value"))
    (busy,) = gate.await_tasks()
    p.renew()
    (idle,) = set(old) - {busy}
    wait_until(lambda: is_gone(idle), DEADLINE)
    assert not is_gone(busy)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    gate.open()
    assert long.get(DEADLINE) == "value"
    await_renewed(p, old)


def test_asked_for_again_before_it_is_over(pool):
    p = pool(None, processes=3)
    for _ in range(3):
        old = p.get_worker_pids()
        p.renew()
    results = [p.apply_async(tasks.same, (i,)) for i in range(100)]
    assert [r.get(DEADLINE) for r in results] == list(range(100))
    await_renewed(p, old)
    wait_until(lambda: not p._supervisor.roster._retired, DEADLINE)


def test_the_old_template_is_killed_meanwhile(pool, gate):
    p = pool(None, processes=2)
    long = p.apply_async(tasks.pass_gate, (gate.path, 1))
    gate.await_tasks()
    template = p._supervisor.roster.template.pid
    old = p.get_worker_pids()
    p.renew()
    wait_until(lambda: p._supervisor.roster._retired, DEADLINE)
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not p._supervisor.roster._retired, DEADLINE)
    gate.open()
    assert long.get(DEADLINE) == 1
    await_renewed(p, old)


def test_a_template_that_dies_renews_nobody(pool):
    p = pool(None, processes=2)
    old = p.get_worker_pids()
    os.kill(p._supervisor.roster.template.pid, signal.SIGKILL)
    wait_until(lambda: p._supervisor.roster.template is None, DEADLINE)
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: p.ready == 2 and old[0] not in p.get_worker_pids(), DEADLINE)
    assert [p.apply_async(tasks.same, (i,)).get(DEADLINE) for i in range(100)] == list(range(100))
    assert old[1] in p.get_worker_pids()
    assert p.statistics().exits.get("renewed", 0) == 0


def test_the_pool_ends_meanwhile(pool):
    for _ in range(5):
        p = pool(None, processes=2)
        p.renew()
        p.terminate()


def test_without_a_start():
    p = TaskPool(1)
    with pytest.raises(PoolNotRunning):
        p.renew()
    with p:
        pass
    with pytest.raises(PoolNotRunning):
        p.renew()


# ---- the new template fails ----


def initialize(flag: str) -> None:
    """A template's initializer."""
    if os.path.exists(flag):
        raise LookupError("not yet")


def initialize_slowly(gate: str, flag: str) -> None:
    if os.path.exists(flag):
        tasks.pass_gate(gate)


@pytest.fixture
def flag(tmp_path):
    return tmp_path / "flag"


def goes_on(p, old):
    """Everything is as it was before."""
    assert sorted(p.get_worker_pids()) == sorted(old)
    assert p.ready == len(old)
    assert {p.apply_async(tasks.pid).get(DEADLINE) for _ in range(50)} <= set(old)


@pytest.mark.parametrize("method", METHODS)
def test_nobody_leaves_before_the_new_template_is_initialized(pool, gate, flag, method):
    p = pool(
        None,
        processes=1,
        context=method,
        template_initializer=initialize_slowly,
        template_initargs=(gate.path, str(flag)),
    )
    old = p.get_worker_pids()
    flag.touch()
    p.renew()
    gate.await_tasks()
    assert stays(lambda: p.get_worker_pids() == old)
    goes_on(p, old)
    gate.open()
    await_renewed(p, old)


def test_a_new_template_that_fails_is_tried_again(pool, flag):
    told = Log()
    p = pool(
        None,
        processes=2,
        logger=told.logger,
        template_initializer=initialize,
        template_initargs=(str(flag),),
    )
    old = p.get_worker_pids()
    flag.touch()
    p.renew()
    wait_until(lambda: p._supervisor._renewal.failures.length >= 3, DEADLINE, "three templates")
    goes_on(p, old)
    assert told.kinds == [LookupError]  # once in a while
    assert "workers stay as they are" in told.text
    # who dies meanwhile has a successor of the template there was
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: p.ready == 2 and old[0] not in p.get_worker_pids(), DEADLINE)
    flag.unlink()
    await_renewed(p, old)
    assert p.statistics().failed == 0


def test_start_retries_bounds_the_renewals_templates(pool, flag):
    told = Log()
    p = pool(
        None,
        processes=2,
        logger=told.logger,
        start_retries=2,
        template_initializer=initialize,
        template_initargs=(str(flag),),
    )
    old = p.get_worker_pids()
    flag.touch()
    p.renew()
    wait_until(lambda: "it is not tried again" in told.text, DEADLINE)
    flag.unlink()
    assert stays(lambda: p.get_worker_pids() == old)
    goes_on(p, old)
    p.renew()
    await_renewed(p, old)


def test_new_workers_that_fail_cost_no_old_one(pool, flag):
    """The template is sound, their initializer is not."""
    p = pool(None, processes=2, initializer=initialize, initargs=(str(flag),))
    old = p.get_worker_pids()
    flag.touch()
    p.renew()
    wait_until(lambda: p.statistics().exits.get("failed_start", 0) >= 3, DEADLINE)
    goes_on(p, old)
    flag.unlink()
    await_renewed(p, old)


def renewal_that_hangs(pool, gate, flag, **options):
    """(pool, its workers, the new template); the next one will not hang."""
    p = pool(
        None,
        processes=2,
        template_initializer=initialize_slowly,
        template_initargs=(gate.path, str(flag)),
        **options,
    )
    old = p.get_worker_pids()
    flag.touch()
    p.renew()
    (hangs,) = gate.await_tasks()
    flag.unlink()
    return p, old, hangs


def test_a_new_template_that_hangs_is_replaced(pool, gate, flag):
    p, old, hangs = renewal_that_hangs(pool, gate, flag, start_timeout=3)
    await_renewed(p, old)
    assert is_gone(hangs)


def test_a_later_renewal_takes_the_place_of_one_that_hangs(pool, gate, flag):
    p, old, hangs = renewal_that_hangs(pool, gate, flag)
    p.renew()
    await_renewed(p, old)
    assert is_gone(hangs)


def test_a_callback_that_takes_long_delays_it_not(pool, gate):
    """Nor a successor of one that has died; nobody else reads what workers say meanwhile."""
    p = pool(None, processes=2)
    old = p.get_worker_pids()
    p.apply_async(tasks.nothing, callbacks=lambda value, meta: tasks.pass_gate(gate.path))
    gate.await_tasks()
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: p.ready == 2 and old[0] not in p.get_worker_pids(), DEADLINE)
    p.renew()
    await_renewed(p, old)
    gate.open()


def test_who_runs_a_long_task_holds_up_no_other(pool, tmp_path):
    """All of them do."""
    p = pool(None, processes=3)
    gates = [Gate(tmp_path, f"gate{n}") for n in range(3)]
    long = [p.apply_async(tasks.pass_gate, (gate.path,)) for gate in gates]
    old = p.get_worker_pids()
    for gate in gates:
        gate.await_tasks()
    behind = [p.apply_async(tasks.pid) for _ in range(20)]
    p.renew()
    roster = p._supervisor.roster
    wait_until(lambda: all(w.channel.leaving for w in roster if w.pid in old), DEADLINE)
    for gate in reversed(gates):
        gate.open()
        (pid,) = gate.waiting()
        wait_until(lambda pid=pid: is_gone(pid), DEADLINE)
    for result in long:
        result.get(DEADLINE)
    assert not {result.get(DEADLINE) for result in behind} & set(old)
    await_renewed(p, old)


@pytest.mark.parametrize("method", METHODS)
def test_another_thread_ends_the_pool_meanwhile(method):
    """Whatever it is doing: no template is left."""
    for n in range(6 if method == "fork" else 2):
        p = TaskPool(None, processes=2, context=method)
        p.run()
        go = threading.Event()

        def renew(p=p, go=go):
            go.wait()
            with contextlib.suppress(PoolNotRunning):
                for _ in range(3):
                    p.renew()

        renewing = Background(renew)
        go.set()
        threading.Event().wait(n / 500)
        p.terminate()
        renewing.result()
