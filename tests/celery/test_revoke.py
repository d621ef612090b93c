"""Revoked tasks: waiting, reserved and running ones; and nobody else."""

from __future__ import annotations

import signal

import pytest
from celery.exceptions import TaskRevokedError, WorkerLostError

from guards import wait_until
from support import is_gone

pytestmark = pytest.mark.slow


def revoke(client, result, **options) -> None:
    client.app.control.revoke(result.id, **options)


def revoked(site) -> list[str]:
    """Those that the worker has told of, with the signal's number."""
    path = site.directory / "revoked"
    return (
        [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []
    )


def test_before_it_has_a_slot(redis_site, worker, client, gate) -> None:
    w = worker("-c", "1")
    first = client.send("pass_gate")
    gate.await_tasks()
    r = client.send("append", "ran", "x")
    w.await_log(rf"append\[{r.id}\] received")
    revoke(client, r)
    w.await_log("Tasks flagged as revoked")
    gate.open()
    client.get(first)
    client.await_state(r, "REVOKED")
    assert client.call("add", 1, 1) == 2
    assert not (redis_site.directory / "ran").exists()


@pytest.mark.parametrize("signame", ["SIGTERM", "SIGKILL", "SIGQUIT", "SIGALRM"])
def test_while_it_runs(site, worker, client, gate, signame: str) -> None:
    w = worker("-c", "2")
    r, other = client.send("pass_gate"), client.send("pass_gate", "other")
    (pid,) = gate.await_tasks()
    wait_until(lambda: list(site.directory.glob("other.at.*")))
    revoke(client, r, terminate=True, signal=signame)
    client.await_state(r, "REVOKED")
    with pytest.raises(TaskRevokedError):
        r.get()
    wait_until(lambda: is_gone(pid))
    (site.directory / "other").touch()
    assert client.get(other) != pid
    assert client.call("add", 1, 1) == 2
    # told when the state has been stored; over files, in another thread than what follows
    wait_until(lambda: revoked(site))
    assert w.stop() == 0
    assert revoked(site) == [f"{r.id} {int(getattr(signal, signame))}"]
    assert "WorkerLostError" not in w.log


def test_it_is_told_of_once(site, worker, client, gate) -> None:
    """Its process may be gone before the worker has told of that."""
    w = worker("-c", "1")
    r = client.send("revoked_slowly")
    gate.await_tasks()
    client.await_active()
    revoke(client, r, terminate=True)
    wait_until(lambda: revoked(site), 30)
    assert client.call("add", 1, 1) == 2
    assert w.stop() == 0
    assert revoked(site) == [f"{r.id} {int(signal.SIGTERM)}"]


@pytest.mark.parametrize(
    "signame, error", [("SIGUSR1", "SoftTimeLimitExceeded"), ("SIGTERM", "SystemExit")]
)
def test_it_may_clean_up(site, worker, client, gate, signame: str, error: str) -> None:
    worker("-c", "1")
    r = client.send("tidy_up", error, "gate")
    gate.await_tasks()
    revoke(client, r, terminate=True, signal=signame)
    wait_until((site.directory / "gate.tidy").exists)
    # its state may be that which it writes itself, in the end
    number = int(getattr(signal, signame))
    wait_until(lambda: revoked(site) == [f"{r.id} {number}"])
    assert client.call("add", 1, 1) == 2


def test_one_that_swallows_it(redis_site, worker, client, gate) -> None:
    """It is killed after a while; who comes next in its place is not taken for it."""
    w = worker("-c", "1", conf={"celery_pool": {"kill_grace": 0.5}})
    r = client.send("swallow", "gate")
    (pid,) = gate.await_tasks()
    revoke(client, r, terminate=True)
    wait_until((redis_site.directory / "gate.swallowed").exists)
    client.await_state(r, "REVOKED")
    wait_until(lambda: is_gone(pid))
    other = client.send("end_by", int(signal.SIGKILL))
    with pytest.raises(WorkerLostError):
        client.get(other)
    assert other.state == "FAILURE"
    assert [line.split()[0] for line in revoked(redis_site)] == [r.id]


def test_one_that_has_not_begun(redis_site, worker, client, gate) -> None:
    """In the pool already, as with worker_pool_putlocks off all that are prefetched are."""
    w = worker("-c", "1", conf={"worker_pool_putlocks": False})
    first = client.send("pass_gate")
    gate.await_tasks()
    r = client.send("append", "ran", "x")
    w.await_log(rf"append\[{r.id}\] received")
    revoke(client, r, terminate=True)
    client.await_state(r, "REVOKED")
    gate.open()
    client.get(first)
    assert client.call("add", 1, 1) == 2
    assert not (redis_site.directory / "ran").exists()
