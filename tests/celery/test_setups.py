"""Ways to set a worker up: those that Celery knows besides, and those that cannot work."""

from __future__ import annotations

import re

import pytest

from guards import wait_until
from support import is_gone, run_script

slow = pytest.mark.slow


@pytest.mark.parametrize("version", ["5.6.2", "4.4.0", "6.0.0rc1"])
def test_another_celery(version: str) -> None:
    ended = run_script(
        f"import celery; celery.__version__ = {version!r}; import celery_pool.ext.celery"
    )
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: celery_pool.ext.celery is made for Celery 5.7, and this is Celery {version}"
    )


def test_celery_is_imported_by_those_alone_who_ask() -> None:
    ended = run_script(
        "import sys, celery_pool; assert not {'celery', 'billiard', 'kombu'} & set(sys.modules)"
    )
    assert ended.returncode == 0, ended.stderr


def test_celery_goes_by_the_name_of_the_module() -> None:
    """Django's fixup, which closes connections of the database, and `-c auto`."""
    from celery.concurrency import prefork

    from celery_pool.ext.celery import TaskPool

    assert TaskPool.__module__.split(".")[-1] == "prefork"
    assert issubclass(TaskPool, prefork.TaskPool)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"kil_grace": 1}, "celery_pool has no option 'kil_grace'; there are blas_threads, "),
        ({"limit": 1}, "celery_pool has no option 'limit'"),
        ({"context": "thread"}, "context='thread' is not 'fork', 'spawn' or 'forkserver'"),
        ([1], "celery_pool has to be a dict of options, not list"),
        ({"kill_grace": -1}, "kill_grace must be from 0"),
    ],
)
def test_options_that_make_no_sense(files_site, worker, options: object, sentence: str) -> None:
    w = worker(conf={"celery_pool": options}, wait=False)
    assert w.wait() == 1
    assert sentence in w.log


def test_an_application_that_cannot_be_loaded_in_the_template(files_site, worker) -> None:
    """Its traceback is told, and the worker stops."""
    w = worker(
        conf={"celery_pool": {"context": "spawn"}},
        environment={"CELERY_TEST_BAD_START": "import"},
        wait=False,
    )
    assert w.wait() == 1
    assert "Unrecoverable error: RuntimeError('no database')" in w.log
    assert re.search(r'celery_app\.py", line \d+, in <module>', w.log)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_initializer_that_fails(files_site, worker, method: str) -> None:
    """In the processes themselves: its traceback is told, and the worker stops."""
    w = worker(
        *("-c", "2"),
        conf={"celery_pool": {"context": method}},
        environment={"CELERY_TEST_BAD_START": "initializer"},
        wait=False,
    )
    assert w.wait() == 1
    assert "Unrecoverable error: RuntimeError('no licence')" in w.log
    assert re.search(r'celery_app\.py", line \d+, in on_worker_process_init', w.log)


def test_processes_that_cannot_start(files_site, worker) -> None:
    w = worker("-c", "2", environment={"CELERY_TEST_BAD_START": "exit"}, wait=False)
    assert w.wait() == 1
    assert re.search(r"Unrecoverable error: StartError\(.*exit code 3", w.log)


@slow
def test_with_beat(redis_site, worker, client) -> None:
    beat = {"x": {"task": "celery_app.append", "schedule": 0.2, "args": ["ticks", "x"]}}
    w = worker("-c", "1", "-B", conf={"beat_schedule": beat})
    ticks = redis_site.directory / "ticks"
    wait_until(lambda: ticks.exists() and len(ticks.read_text().split()) > 2, 30)
    children = w.descendants()
    assert w.stop() == 0
    for pid in children:
        wait_until(lambda pid=pid: is_gone(pid))


@slow
def test_as_many_as_there_are_cpus(redis_site, worker, client) -> None:
    w = worker("-c", "auto")
    assert client.call("add", 1, 1) == 2
    number = w.await_log(r"'auto' resolved to \d+").split()[-1]
    assert client.inspect("stats")["pool"]["max-concurrency"] == int(number)


@slow
@pytest.mark.parametrize("putlocks", [True, False])
def test_the_broker_is_lost_and_found(redis_site, worker, client, gate, putlocks: bool) -> None:
    """What runs is finished, what waits runs once."""
    import redis

    w = worker("-c", "1", conf={"worker_pool_putlocks": putlocks})
    running = client.send("pass_gate")
    client.await_active()
    waiting = [client.send("append", "ran", str(number)) for number in range(3)]
    w.await_log("append.* received", times=3)
    host, _, port = (
        redis_site.conf["broker_url"].removeprefix("redis://").partition("/")[0].partition(":")
    )
    with redis.Redis(host, int(port)) as connection:
        for kind in ("normal", "pubsub"):
            connection.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    w.await_log(r"[Cc]onnection to broker lost")
    w.await_log("Connected to redis", times=2)
    gate.open()
    client.get(running)
    for r in waiting:
        client.get(r)
    assert sorted((redis_site.directory / "ran").read_text().split()) == ["0", "1", "2"]
    assert client.call("add", 1, 1) == 2
