"""A Django project under the worker: its database is nobody's but the process's that runs a task,
and no longer than that task. What prefork does as well is asked of it, too."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder
pytest.importorskip("django")

from celery_run import POOLS
from celery_worker import Client, Site, Worker
from guards import wait_until
from support import script_environment

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("pool", ["ours", "prefork"])
#: Celery has no prefork pool by forkserver; by spawn it leaves connections open.
kept_apart = pytest.mark.parametrize(
    "pool, method",
    [("ours", "fork"), ("ours", "spawn"), ("ours", "forkserver"), ("prefork", "fork")],
)
methods = pytest.mark.parametrize("method", ["fork", "spawn"])


class Project:
    """A copy of django_project with a database of its own, and its worker."""

    def __init__(self, site: Site, client: Client) -> None:
        self.site = site
        self.client = client
        self.folder = site.directory
        self.database = self.folder / "shop.sqlite3"
        source = Path(__file__).with_name("django_project")
        shutil.copytree(source, self.folder, dirs_exist_ok=True)
        self.environment = {"DJANGO_SETTINGS_MODULE": "project.settings"}
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"],
            cwd=self.folder,
            env={**script_environment(), **self.environment, "PYTHONPATH": str(self.folder)},
            check=True,
        )

    def worker(self, pool: str, method: str, *options: str, **environment: str) -> Worker:
        conf = {"worker_pool_start_method": method}
        if method == "forkserver":
            conf = {"celery_pool": {"context": method}}
        return Worker(
            self.site,
            *options,
            pool=POOLS[pool],
            application="project",
            conf=conf,
            environment={**self.environment, **environment},
        )

    def send(self, name: str, *args: object) -> object:
        return self.client.app.send_task(f"shop.tasks.{name}", args)

    def call(self, name: str, *args: object) -> object:
        return self.client.get(self.send(name, *args))

    def orders(self) -> list[int]:
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            return [n for (n,) in database.execute("select number from shop_order order by number")]

    def who_has_it_open(self) -> set[int]:
        """The pids of all that have the database open, seen from outside."""
        found = set()
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(self.database):
                    found.add(int(link.parts[2]))
        return found


@pytest.fixture
def project(redis_site: Site, client: Client) -> Project:
    return Project(redis_site, client)


@pytest.fixture
def worker(project: Project) -> Iterator[Callable[..., Worker]]:
    with contextlib.ExitStack() as stack:
        yield lambda *args, **environment: stack.enter_context(project.worker(*args, **environment))


@both
@methods
def test_tasks_use_the_database(project, worker, pool: str, method: str) -> None:
    """From several processes, which are replaced meanwhile."""
    w = worker(pool, method, "-c", "2", "--max-tasks-per-child", "5")
    results = [project.send("place", number) for number in range(30)]
    told = [project.client.get(result) for result in results]
    assert project.orders() == [*range(30)]
    assert len({one["pid"] for one in told}) >= 6
    assert w.stop() == 0


@kept_apart
def test_connections_are_closed_between_tasks(project, worker, pool: str, method: str) -> None:
    worker(pool, method, "-c", "2")
    told = [project.call("place", number) for number in range(10)]
    assert {(one["before"], one["after"]) for one in told} == {(0, 1)}
    wait_until(lambda: not project.who_has_it_open() & {one["pid"] for one in told})


@kept_apart
def test_the_main_processes_connection_is_nobody_elses(
    project, worker, pool: str, method: str
) -> None:
    """One that it has opened before it starts its children, and keeps."""
    w = worker(pool, method, "-c", "2", "--max-tasks-per-child", "3")
    w.await_log("the main process has the database open: 1")
    told = [project.call("place", number) for number in range(10)]
    assert {(one["before"], one["after"]) for one in told} == {(0, 1)}
    wait_until(lambda: project.who_has_it_open() == {w.pid})


@kept_apart
def test_a_connection_that_loading_opens_is_closed(project, worker, pool: str, method: str) -> None:
    """In whichever process it is loaded."""
    w = worker(pool, method, "-c", "1", SHOP_OPENS_EARLY="1")
    told = [project.call("place", number) for number in range(3)]
    assert {(one["before"], one["after"]) for one in told} == {(0, 1)}
    wait_until(lambda: project.who_has_it_open() == {w.pid})


@both
def test_a_connection_that_a_task_spoils_is_that_tasks_own(project, worker, pool: str) -> None:
    worker(pool, "fork", "-c", "1")
    pid = project.call("spoil")
    assert project.call("place", 1)["pid"] == pid
    with pytest.raises(ValueError):
        project.call("place_in_vain", 2)
    project.call("place", 3)
    assert project.orders() == [1, 3]


@both
def test_a_task_that_is_sent_when_its_senders_transaction_is_committed(
    project, worker, pool: str
) -> None:
    """Django's tasks have a class of their own."""
    worker(pool, "fork", "-c", "1")
    project.call("place_both", 1)
    wait_until(lambda: project.orders() == [1, 2], 30)


def test_options_of_the_pool_stand_in_its_settings(project) -> None:
    """By the name that Celery's namespace makes of it, as all its settings."""
    conf = {"celery_pool": {"kil_grace": 1}}
    with Worker(
        project.site, application="project", conf=conf, environment=project.environment, wait=False
    ) as w:
        assert w.wait() == 1
        assert "celery_pool has no option 'kil_grace'" in w.log
