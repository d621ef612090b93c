"""Any number of threads submit, reap and wait."""

from __future__ import annotations

import random
import threading
import time

import pytest

import tasks
from guards import wait_until
from support import DEADLINE, Background, Calls, Gate, at_rest, took


@pytest.mark.parametrize("mode", ["any", "reaper", "caller"])
@pytest.mark.parametrize("limit", [1, 2, 64])
def test_many_submitters(pool, mode, limit):
    p = pool(limit, processes=min(limit, 2), callbacks_in=mode)
    calls = Calls()

    def submit(offset):
        for i in range(200):
            p.apply_async(tasks.same, (offset + i,), callbacks=calls)

    threads = [Background(submit, 1000 * k) for k in range(4)]
    for thread in threads:
        thread.result(40)

    def drain():
        while p.wait_for_result():
            pass

    Background(drain).result()
    assert sorted(calls.values) == [1000 * k + i for k in range(4) for i in range(200)]
    assert at_rest(p)


def test_everything_at_once(pool):
    """Submitters, getters, reapers and waiters over one pool."""
    p = pool(8, processes=2)
    calls = Calls()
    over = threading.Event()

    def submit_and_get(seed):
        chance = random.Random(seed)
        for i in range(150):
            r = p.apply_async(tasks.same, (i,), callbacks=calls if chance.random() < 0.7 else None)
            if chance.random() < 0.5:
                assert r.get(DEADLINE) == i
            if chance.random() < 0.1:
                p.add(r2 := p.apply_async(tasks.same, (i,)))
                assert r2.get(DEADLINE) == i

    def reap():
        while not over.is_set():
            p.reap(timeout=0.01)

    def wait():
        while not over.is_set():
            p.wait_for_result()
            over.wait(0.001)

    helpers = [Background(reap), Background(wait), Background(wait)]
    submitters = [Background(submit_and_get, seed) for seed in range(4)]
    for submitter in submitters:
        submitter.result(40)
    over.set()
    for helper in helpers:
        helper.result()
    wait_until(lambda: at_rest(p), DEADLINE)
    statistics = p.statistics()
    assert statistics.submitted == statistics.succeeded
    assert statistics.callback_errors == 0


def test_a_getter_whose_leader_leaves(pool, tmp_path):
    """Of two that wait, the first to be served passes the watch on to the other."""
    p = pool(4)
    for round_ in range(20):
        gates = [Gate(tmp_path, f"{round_}-{i}") for i in range(4)]
        getters = [
            Background(p.apply_async(tasks.pass_gate, (gate.path, i)).get, DEADLINE)
            for i, gate in enumerate(gates)
        ]
        for i in random.Random(round_).sample(range(4), 4):
            gates[i].open()
            assert getters[i].result(5) == i


def test_a_getter_that_times_out_passes_the_watch_on(pool, tmp_path):
    p = pool(2)
    gate = Gate(tmp_path)
    slow = p.apply_async(tasks.pass_gate, (gate.path, 1))
    patient = Background(slow.get, DEADLINE)
    for _ in range(30):
        slow.wait(0.002)
    gate.open()
    assert patient.result(5) == 1


@pytest.mark.parametrize("call", ["wait_for_result", "apply_async", "join"])
def test_a_follower_is_woken_to_run_the_callbacks(pool, tmp_path, call):
    """Where only callers run them: the leader, inside get(), collects what the follower
    has to dispatch. Not only when the follower looks for signals, once a second."""
    p = pool(2, callbacks_in="caller")
    calls, slow_gate = Calls(), Gate(tmp_path, "slow")
    slow = p.apply_async(tasks.pass_gate, (slow_gate.path,))
    leader = Background(slow.get, DEADLINE)
    slow_gate.await_tasks()
    for round_ in range(5):
        gate = Gate(tmp_path, str(round_))
        p.apply_async(tasks.pass_gate, (gate.path,), callbacks=calls)
        gate.await_tasks()
        if call == "apply_async":
            follower = Background(p.apply_async, tasks.nothing)
        elif call == "join":
            p.close()
            follower = Background(p.join, 0.9)
        else:
            follower = Background(p.wait_for_result)
        time.sleep(0.05)  # it sleeps by now
        start = time.monotonic()
        gate.open()
        wait_until(lambda n=round_: len(calls) > n, DEADLINE)
        took(start, 0.5)
        follower.result()
        if call == "join":
            break
        while p.statistics().in_flight > 1:
            p.reap()
    slow_gate.open()
    leader.result()


def test_no_wake_up_is_lost_where_only_callers_dispatch(pool):
    """The background thread may collect what a caller waits for."""
    p = pool(1, callbacks_in="caller")
    longest = 0.0
    calls = Calls()
    for i in range(20_000):
        start = time.monotonic()
        p.apply_async(tasks.same, (i,), callbacks=calls)
        longest = max(longest, time.monotonic() - start)
    while p.wait_for_result():
        pass
    assert calls.values == list(range(20_000))
    assert longest < 0.9


def test_ping_pong_of_two_threads(pool):
    """Many short waits, each alone: no wake-up is lost."""
    p = pool(2)

    def play():
        for i in range(1500):
            assert p.apply_async(tasks.same, (i,)).get(DEADLINE) == i

    players = [Background(play) for _ in range(2)]
    for player in players:
        player.result(40)


@pytest.mark.parametrize("spin", [0, 0.0, 1, "auto"])
def test_ping_pong_without_spinning(pool, spin):
    p = pool(1, spin=spin)
    calls = Calls()
    for i in range(500):
        assert p.apply_async(tasks.same, (i,), callbacks=calls).get(DEADLINE) == i
    assert calls.values == list(range(500))


def test_two_pools_in_one_process(pool):
    one, two = pool(2), pool(2)
    calls = Calls()

    def hand_over(value, meta):
        two.apply_async(tasks.same, (value + 1,), callbacks=calls)

    for i in range(200):
        one.apply_async(tasks.same, (i,), callbacks=hand_over)
    wait_until(lambda: len(calls) == 200, DEADLINE)
    assert sorted(calls.values) == list(range(1, 201))


class Lingers:
    """A meta whose end lets other threads in."""

    def __del__(self):
        time.sleep(0.0001)


@pytest.mark.parametrize("callbacks", [None, Calls()], ids=["none", "some"])
def test_the_ends_of_jobs_let_other_threads_in(pool, callbacks):
    """While one thread lets a job go, another goes on with the list in which that was."""
    p = pool(None, processes=2)

    def collect():
        while p.statistics().submitted < 3000 or p.statistics().in_flight:
            p.reap()

    threads = [Background(collect) for _ in range(3)]
    for _ in range(3000):
        p.apply_async(tasks.nothing, callbacks=callbacks, meta=Lingers())
    for thread in threads:
        thread.result(DEADLINE)
    wait_until(lambda: at_rest(p), DEADLINE)
    assert p.statistics().succeeded == 3000
