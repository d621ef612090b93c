"""Tasks run in the pool's processes, over both kinds of transports and under all start methods."""

from __future__ import annotations

import pickle
import signal
import time

import pytest

from guards import wait_until
from support import is_gone

slow = pytest.mark.slow

METHODS = ["fork", *(pytest.param(name, marks=slow) for name in ("spawn", "forkserver"))]


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_starts_runs_tasks_and_ends(site, worker, client, method: str) -> None:
    w = worker("-c", "2", conf={"celery_pool": {"context": method}})
    assert client.call("add", 2, 3) == 5
    pids = {client.get(r) for r in [client.send("pid") for _ in range(20)]}
    assert w.pid not in pids
    assert pids <= set(client.inspect("stats")["pool"]["processes"])
    children = w.descendants()
    assert w.stop(signal.SIGTERM) == 0
    for pid in children:
        wait_until(lambda pid=pid: is_gone(pid), message="children left")


def test_as_a_custom_pool(redis_site, worker, client) -> None:
    w = worker(
        *("-P", "custom"),
        pool="prefork",
        environment={"CELERY_CUSTOM_WORKER_POOL": "celery_pool.ext.celery:TaskPool"},
    )
    assert client.call("add", 2, 3) == 5
    assert client.inspect("stats")["pool"]["implementation"].startswith("celery_pool.")
    assert w.stop() == 0


@slow
def test_spawn_by_celerys_own_setting(redis_site, worker, client) -> None:
    worker("-c", "1", conf={"worker_pool_start_method": "spawn"})
    assert client.call("add", 2, 3) == 5
    assert "multiprocessing" in " ".join(client.call("identity")["argv"])


@slow
def test_what_tasks_start(site, worker, client) -> None:
    worker("-c", "1")
    assert client.call("use_multiprocessing") == 6
    assert client.call("use_billiard") == 7


@slow
def test_large_arguments_and_results(redis_site, worker, client) -> None:
    worker("-c", "1")
    text = "x" * 3_000_000
    assert client.call("same", text) == text


@slow
def test_retries(site, worker, client, tmp_path) -> None:
    worker("-c", "1")
    assert client.call("fail_twice", "tries") == 2
    assert (tmp_path / "tries").read_text() == "xxx"


@slow
def test_an_exception_that_cannot_be_pickled(site, worker, client) -> None:
    worker("-c", "1")
    r = client.send("fail_awkwardly")
    with pytest.raises(Exception, match="Awkward|1"):
        client.get(r)
    assert r.state == "FAILURE"
    assert client.call("add", 1, 1) == 2


@slow
def test_a_task_that_expires_while_it_waits_for_a_slot(redis_site, worker, client, gate) -> None:
    worker("-c", "1")
    first = client.send("pass_gate")
    gate.await_tasks()
    late = client.send("append", "ran", "x", expires=0.5)
    time.sleep(0.6)
    gate.open()
    client.get(first)
    client.await_state(late, "REVOKED")
    assert client.call("add", 1, 1) == 2
    assert not (redis_site.directory / "ran").exists()


@slow
@pytest.mark.parametrize("code", [0, 3, "text", None])
def test_a_task_that_exits(site, worker, client, code) -> None:
    """It is reported, and its process leaves in order."""
    w = worker("-c", "1")
    pid = client.call("pid")
    r = client.send("leave", code)
    with pytest.raises(Exception, match="Worker exited prematurely"):
        client.get(r)
    assert client.call("pid") != pid
    wait_until(lambda: f"{pid} {pid}" in (w.site.directory / "ended").read_text())


@slow
def test_the_next_task_has_its_slot_before_callbacks_are_called(
    redis_site, worker, client, gate
) -> None:
    w = worker("-c", "1")
    first = client.send("before_next")
    gate.await_tasks()
    following = client.send("pass_gate", "next")
    w.await_log(rf"pass_gate\[{following.id}\] received")
    gate.open()
    client.get(first)
    acknowledged = redis_site.directory / "acknowledged"
    wait_until(acknowledged.exists, 40)
    (redis_site.directory / "next").touch()
    client.get(following)
    assert acknowledged.read_text().split() == [str(w.pid), "1"]


@slow
@pytest.mark.parametrize("late", [False, True])
def test_acknowledged(site, worker, client, gate, late: bool) -> None:
    """Once it has begun, or once it has ended."""
    worker("-c", "1", conf={"task_acks_late": late})
    r = client.send("pass_gate")
    (pid,) = gate.await_tasks()
    (active,) = client.await_active()
    assert (active["worker_pid"], active["acknowledged"]) == (pid, not late)
    gate.open()
    assert client.get(r) == pid


def test_arguments_travel_once() -> None:
    from celery_pool.ext.celery.adapter import without_second_copy

    long = "x" * 10_000
    body = pickle.dumps(((long,), {}, {}))
    request = {"id": "1", "args": [long], "kwargs": {}, "argsrepr": "..."}
    sent = without_second_copy("task", "1", request, body, "application/x", "binary")
    assert len(pickle.dumps(sent)) < 1.1 * len(body)
    assert request["args"] == [long], "the request itself is as it was"
    old = ("task", "1", request, ((long,), {}, {}), None, None)
    assert without_second_copy(*old) == old
