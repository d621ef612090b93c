"""The pool's processes: lost, recycled, resized, restarted, and what they are called."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from celery.exceptions import WorkerLostError

from guards import wait_until
from support import is_gone, script_environment

pytestmark = pytest.mark.slow


def pids(client) -> list[int]:
    return client.inspect("stats")["pool"]["processes"]


def test_one_that_is_killed(site, worker, client, gate) -> None:
    """Its task fails, soon and with the reason; the others go on."""
    worker("-c", "2")
    r, other = client.send("pass_gate"), client.send("pass_gate", "other")
    (pid,) = gate.await_tasks()
    wait_until(lambda: list(site.directory.glob("other.at.*")))
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match=r"signal 9 \(SIGKILL\) Job: \d+\."):
        client.get(r)
    assert time.monotonic() - start < 5
    (site.directory / "other").touch()
    client.get(other)
    assert client.call("pid") != pid


def test_the_template_is_killed(redis_site, worker, client, gate) -> None:
    """Who runs a task does not notice, and who is needed comes from another one."""
    worker("-c", "1", "--max-tasks-per-child", "3")
    template = client.call("ask_parent")
    r = client.send("pass_gate")
    (pid,) = gate.await_tasks()
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: is_gone(template))
    gate.open()
    assert client.get(r) == pid
    assert client.call("pid") == pid
    assert client.call("ask_parent") != template
    assert client.call("pid") != pid


def test_one_that_dies_idle_again_and_again(redis_site, worker, client) -> None:
    """The worker ends and says why."""
    w = worker("-c", "1", conf={"celery_pool": {"max_restarts": 2}})
    (pid,) = pids(client)
    os.kill(pid, signal.SIGKILL)
    for number in (1, 2):
        line = w.await_log(r"worker \d+ has taken a dead one's place", times=number)
        os.kill(int(line.split()[1]), signal.SIGKILL)
    assert w.wait() == 1
    assert "The worker stops: CrashLoopError" in w.log


def test_tasks_that_kill_their_process(redis_site, worker, client) -> None:
    worker("-c", "2")
    bad = [client.send("end_by", int(signal.SIGKILL)) for _ in range(20)]
    assert client.call("add", 1, 1) == 2
    for r in bad:
        with pytest.raises(WorkerLostError):
            client.get(r)


def test_reject_on_worker_lost(redis_site, worker, client, gate) -> None:
    worker("-c", "1", conf={"task_acks_late": True, "task_reject_on_worker_lost": True})
    r = client.send("pass_gate")
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGKILL)
    gate.await_tasks(2)
    gate.open()
    assert client.get(r) != pid


def test_max_tasks_per_child(site, worker, client) -> None:
    worker("-c", "1", "--max-tasks-per-child", "2")
    seen = [client.call("pid") for _ in range(6)]
    assert seen[::2] == seen[1::2] and len(set(seen)) == 3
    for pid in seen[:4]:
        wait_until(lambda pid=pid: is_gone(pid))
    ended = (site.directory / "ended").read_text().split()
    assert set(seen[:4]) <= {int(pid) for pid in ended}, "worker_process_shutdown"


def test_slow_starts_are_waited_for(redis_site, worker, client) -> None:
    """Longer than worker_proc_alive_timeout: nobody is killed for it."""
    worker(
        *("-c", "1", "--max-tasks-per-child", "1"),
        conf={"worker_proc_alive_timeout": 0.2},
        environment={"CELERY_TEST_SLOW_START": "1"},
    )
    seen = [client.call("pid") for _ in range(3)]
    assert len(set(seen)) == 3
    begun = (redis_site.directory / "begun").read_text().split()
    assert len(begun) <= 5, "one at the start, one a task, one that stands by"


def test_max_memory_per_child(redis_site, worker, client) -> None:
    worker("-c", "1", "--max-memory-per-child", "200000")
    first = client.call("allocate", 1)
    assert client.call("allocate", 300) == first
    assert client.call("pid") != first


def test_grow_and_shrink(site, worker, client, gate) -> None:
    worker("-c", "1")
    client.control("control", "pool_grow", n=2)
    r = [client.send("pass_gate") for _ in range(3)]
    gate.await_tasks(3)
    answer = str(client.control("control", "pool_shrink", n=1))
    assert "All processes busy" in answer
    assert client.inspect("stats")["pool"]["writes"]["total"] >= 3
    gate.open()
    [client.get(x) for x in r]
    wait_until(lambda: client.inspect("active") == [])  # results are known before that
    client.control("control", "pool_shrink", n=2)
    wait_until(lambda: len(pids(client)) == 1)
    assert client.call("add", 1, 1) == 2


@pytest.mark.parametrize("least", [0, 1])
def test_autoscale(redis_site, worker, client, gate, least: int) -> None:
    worker("--autoscale", f"3,{least}", environment={"AUTOSCALE_KEEPALIVE": "1"})
    assert client.call("add", 1, 1) == 2
    r = [client.send("pass_gate") for _ in range(3)]
    gate.await_tasks(3)
    gate.open()
    [client.get(x) for x in r]
    wait_until(lambda: len(pids(client)) == 1, 30)
    assert client.call("add", 1, 1) == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_restart(redis_site, worker, client, gate, method: str) -> None:
    """Nobody waits for the task that runs, and it is not disturbed."""
    version = redis_site.directory / "version"
    version.write_text("1")
    worker("-c", "2", conf={"worker_pool_restarts": True, "celery_pool": {"context": method}})
    assert client.call("version") == "1"
    old = client.send("pass_gate")
    (pid,) = gate.await_tasks()
    version.write_text("2")
    client.control(
        *("control", "pool_restart"), modules=["celery_app"], reload=True, destination=None
    )
    wait_until(lambda: client.call("version") == "2", 30)
    gate.open()
    assert client.get(old) == pid
    wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("method, imports", [("fork", 1), ("spawn", 2), ("forkserver", 2)])
def test_the_application_is_loaded_once(
    redis_site, worker, client, method: str, imports: int
) -> None:
    """In a template that all processes are forked from; and by fork not even there."""
    w = worker("-c", "3", "--max-tasks-per-child", "1", conf={"celery_pool": {"context": method}})
    assert len({client.call("pid") for _ in range(5)}) == 5
    imported = (redis_site.directory / "imported").read_text().split()
    assert len(imported) == imports
    assert imported[0] == str(w.pid)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_is_to_be_done_before_a_process_is_created(
    redis_site, worker, client, method: str
) -> None:
    """In the main process, before it starts the template that the others are forked from."""
    conf = {"worker_pool_restarts": True, "celery_pool": {"context": method}}
    w = worker("-c", "2", "--max-tasks-per-child", "1", conf=conf)
    for _ in range(4):
        client.call("pid")
    created = redis_site.directory / "created"
    assert created.read_text().split() == [str(w.pid)]
    client.control("control", "pool_restart", destination=None)
    assert created.read_text().split() == 2 * [str(w.pid)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_names_and_log_files(redis_site, worker, client, method: str, gate) -> None:
    """By a stable index, from 1 to the number of processes."""
    w = worker(
        *("-c", "2", "--max-tasks-per-child", "2", "-f", "%i.log"),
        conf={"celery_pool": {"context": method}},
        wait=False,
    )
    seen = [client.get(r) for r in [client.send("identity") for _ in range(14)]]
    assert {one["index"] for one in seen} == {0, 1}
    assert len({one["name"] for one in seen}) == len({one["pid"] for one in seen}) > 2
    for one in seen:
        assert one["name"] == one["python"]
        assert re.fullmatch(r"ForkPoolWorker-\d+", one["name"])
    logs = sorted(path.name for path in redis_site.directory.glob("?.log"))
    assert logs == ["0.log", "1.log", "2.log"]
    assert "ForkPoolWorker" in (redis_site.directory / "1.log").read_text()
    assert w.stop() == 0


def test_process_titles(redis_site, worker, client) -> None:
    """Celery's, if setproctitle is installed."""
    (redis_site.directory / "setproctitle.py").write_text(
        "import os\n"
        "def setproctitle(name):\n"
        "    with open('titles', 'a') as file:\n"
        "        file.write(f'{os.getpid()} {name}\\n')\n"
        "def getproctitle():\n"
        "    return ''\n"
    )
    path = f"{redis_site.directory}:{script_environment()['PYTHONPATH']}"
    worker("-c", "1", "-n", "me@here", environment={"PYTHONPATH": path})
    pid = client.call("pid")
    titles = (redis_site.directory / "titles").read_text().splitlines()
    last = dict(line.split(" ", 1) for line in titles)
    assert last[str(pid)] == "[celeryd: me@here:ForkPoolWorker-1]"
    assert "[celeryd] me@here:template" in last.values()
