"""The ways in which a worker ends, and that nothing is left of it."""

from __future__ import annotations

import os
import signal

import pytest

from guards import wait_until
from support import is_gone

pytestmark = pytest.mark.slow


@pytest.fixture
def all_gone():
    """Called with the processes of a worker that has ended."""

    def check(pids: list[int]) -> None:
        assert pids
        for pid in pids:
            wait_until(lambda pid=pid: is_gone(pid), message=f"{pid} is left")

    return check


@pytest.mark.parametrize("to_group", [False, True])
def test_warm(site, worker, client, gate, all_gone, to_group: bool) -> None:
    """What runs is finished; also when the whole process group gets the signal."""
    w = worker("-c", "2")
    r = [client.send("pass_gate") for _ in range(2)]
    gate.await_tasks(2)
    children = w.descendants()
    if to_group:
        os.killpg(w.pid, signal.SIGTERM)
    else:
        w.send_signal(signal.SIGTERM)
    w.await_log("Warm shutdown")
    gate.open()
    assert w.wait() == 0
    assert {client.get(x) for x in r} <= set(children)
    all_gone(children)
    ended = {int(pid) for pid in (site.directory / "ended").read_text().split()}
    assert ended & set(children), "worker_process_shutdown"


def test_cold(site, worker, client, gate, all_gone) -> None:
    """What runs is ended."""
    w = worker("-c", "2")
    client.send("pass_gate")
    client.await_active()
    children = w.descendants()
    w.stop(signal.SIGQUIT)
    assert "Cold shutdown" in w.log
    all_gone(children)


def test_cold_with_a_task_that_swallows_it(redis_site, worker, client, gate, all_gone) -> None:
    w = worker("-c", "1", conf={"celery_pool": {"kill_grace": 0.5}})
    client.send("swallow", "gate")
    client.await_active()
    children = w.descendants()
    w.stop(signal.SIGQUIT)
    assert "Cold shutdown" in w.log
    all_gone(children)


def test_cold_after_warm(redis_site, worker, client, gate, all_gone) -> None:
    w = worker("-c", "1")
    client.send("pass_gate")
    client.await_active()
    children = w.descendants()
    w.send_signal(signal.SIGTERM)
    w.await_log("Warm shutdown")
    w.send_signal(signal.SIGQUIT)
    w.wait()
    all_gone(children)


@pytest.mark.parametrize("in_time", [True, False])
def test_soft(redis_site, worker, client, gate, all_gone, in_time: bool) -> None:
    """Tasks have a while to end before they are ended."""
    conf = {"worker_soft_shutdown_timeout": 30 if in_time else 1, "task_acks_late": True}
    w = worker("-c", "1", conf=conf)
    r = client.send("pass_gate")
    client.await_active()
    children = w.descendants()
    w.send_signal(signal.SIGQUIT)
    w.await_log("Initiating Soft Shutdown")
    if in_time:
        gate.open()
    w.wait()
    all_gone(children)
    assert r.ready() is in_time


def test_by_a_callback(site, worker, client) -> None:
    """What it asks for by an exception, whichever thread it runs in."""
    w = worker("-c", "1")
    r = client.send("stop")
    assert w.wait() == 3
    assert client.get(r) == "stopped"


def test_sighup_starts_it_anew(redis_site, worker, client, gate, all_gone) -> None:
    w = worker("-c", "1")
    r = client.send("pass_gate")
    gate.await_tasks()
    children = w.descendants()
    w.send_signal(signal.SIGHUP)
    w.await_log("Restarting celery worker")
    gate.open()
    client.get(r)
    all_gone(children)
    w.await_log(r"\bready\.$", times=2)
    assert client.call("pid") not in children
    assert w.stop() == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_killed(redis_site, worker, client, all_gone, method: str) -> None:
    """None of its processes stays, not even one in C code."""
    w = worker("-c", "2", conf={"celery_pool": {"context": method}})
    client.send("loop_in_c")
    client.call("add", 1, 1)
    children = w.descendants()
    w.send_signal(signal.SIGKILL)
    w.wait()
    all_gone(children)
