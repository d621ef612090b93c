"""A fault that hits a template in its initializer costs no task: workers go on, and another one is
tried; if it was the first one, run() says so and leaves nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

import fault_tasks
from celery_pool import StartError, TaskPool
from fault_table import BY_THE_WORKER, TEMPLATE_CASES, Case
from guards import wait_until
from support import DEADLINE, Background, Gate, Log, is_gone
from test_faults import BYSTANDERS, WORKERS, inflict

pytestmark = pytest.mark.timeout(40)

SURVIVED = ("SIGSTOP, SIGCONT", "SIGTERM by somebody else")
HANGS = "hang until start_timeout"
BY_ITSELF = (*BY_THE_WORKER, "exception", "sys.exit", HANGS)


class Scene:
    """One row of the table, and what it takes to count tasks."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.fault = fault = case.fault
        self.gate = Gate(directory)
        self.log = str(directory / "log")
        self.told = Log()
        self.pool = TaskPool(
            100,
            processes=WORKERS,
            context=case.method,
            logger=self.told.logger,
            start_timeout=4 if fault == HANGS else 20,
            template_initializer=fault_tasks.reach_once,
            template_initargs=(self.gate.path, fault),
        )

    def arm(self) -> None:
        Path(self.gate.path + ".armed").touch()

    def hit(self) -> None:
        """The template that has come to the place."""
        (pid,) = self.gate.await_tasks()
        if self.fault not in BY_ITSELF:
            inflict(self.fault, pid, pid)
        if self.fault in SURVIVED:
            self.gate.open()
        else:
            wait_until(lambda: is_gone(pid), DEADLINE, "its end")

    def submit(self, first: int) -> list[int]:
        results = [
            self.pool.apply_async(fault_tasks.mark, (self.log, first + i))
            for i in range(BYSTANDERS)
        ]
        return [result.get(DEADLINE) - first for result in results]

    def check(self, *firsts: int) -> None:
        marks = Counter(map(int, Path(self.log).read_text().split()))
        assert marks == Counter(first + i for first in firsts for i in range(BYSTANDERS))
        found = self.pool.statistics()
        assert (found.lost, found.failed, found.in_flight) == (0, 0, 0)


def cases(place: str) -> pytest.MarkDecorator:
    found = [case for case in TEMPLATE_CASES if case.place == place]
    return pytest.mark.parametrize("case", found, ids=str)


@pytest.fixture
def make(case, tmp_path):
    made = []

    def make() -> Scene:
        made.append(Scene(case, tmp_path))
        return made[-1]

    yield make
    while made:  # pytest holds on to `make`, so keep no pool in it
        made.pop().pool.terminate()


@cases("the first template's initializer")
def test_of_the_first_template(make):
    scene = make()
    scene.arm()
    start = Background(scene.pool.run)
    scene.hit()
    if scene.fault in SURVIVED:
        start.result()
    else:
        kinds = {"exception": LookupError, "sys.exit": SystemExit}
        with pytest.raises(kinds.get(scene.fault, StartError)):
            start.result()
        assert scene.pool.get_worker_pids() == []
        scene.pool.run()
    assert scene.submit(1000) == list(range(BYSTANDERS))
    scene.check(1000)


@cases("the initializer of one in the place of another")
def test_of_one_in_the_place_of_another(make):
    scene = make()
    p = scene.pool
    p.run()
    scene.arm()
    template = p._supervisor.roster.template.pid
    stays, goes = p.get_worker_pids()
    os.kill(template, signal.SIGKILL)
    os.kill(goes, signal.SIGKILL)
    scene.gate.await_tasks()
    assert scene.submit(1000) == list(range(BYSTANDERS))
    scene.hit()
    assert scene.submit(2000) == list(range(BYSTANDERS))
    wait_until(lambda: p.ready == WORKERS, DEADLINE, "pool at its size")
    assert stays in p.get_worker_pids()
    assert scene.submit(3000) == list(range(BYSTANDERS))
    scene.check(1000, 2000, 3000)
    assert (LookupError in scene.told.kinds) == (scene.fault == "exception")


@cases("the initializer of one that renews")
def test_of_one_that_renews(make):
    scene = make()
    p = scene.pool
    p.run()
    scene.arm()
    old = p.get_worker_pids()
    p.renew()
    scene.gate.await_tasks()
    assert scene.submit(1000) == list(range(BYSTANDERS))
    if scene.fault not in BY_ITSELF:
        assert (p.ready, sorted(p.get_worker_pids())) == (WORKERS, sorted(old))
    scene.hit()
    assert scene.submit(2000) == list(range(BYSTANDERS))
    wait_until(lambda: not set(old) & set(p.get_worker_pids()), DEADLINE, "all renewed")
    wait_until(lambda: p.ready == WORKERS, DEADLINE, "pool at its size")
    assert scene.submit(3000) == list(range(BYSTANDERS))
    scene.check(1000, 2000, 3000)
    wait_until(lambda: p.statistics().exits == {"renewed": WORKERS}, DEADLINE)
    assert ("template has failed" in scene.told.text) == (scene.fault not in SURVIVED)
