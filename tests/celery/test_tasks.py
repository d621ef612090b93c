"""Tasks run in the pool's processes, over both kinds of transports and under all start methods."""

from __future__ import annotations

import signal

import pytest

from guards import wait_until
from support import is_gone

METHODS = ["fork", "spawn", "forkserver"]


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
