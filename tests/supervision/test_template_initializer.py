"""template_initializer: called once, before the first worker; what it does is there in all."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

import tasks
from celery_pool import PoolError, PoolTerminated, StartError, TaskPool
from celery_pool.supervision.roster import Roster
from celery_pool.supervision.template_process import TEMPLATE_GRACE
from celery_pool.wire.remote import UnpicklableError
from guards import wait_until
from support import DEADLINE, Log, is_gone, took

loaded: list[object] = []


def load(path: str, model: object = None) -> None:
    """Tells who has called it."""
    loaded.append(model)
    tasks.append(path, f"{os.getpid()}")


def load_unless(path: str, forbidden: str) -> None:
    load(path)
    if Path(forbidden).exists():
        raise LookupError("the model is gone")


def what_is_loaded() -> tuple[int, int, list[object]]:
    return os.getpid(), os.getppid(), loaded


def loaded_before(path: str) -> None:
    """An initializer."""
    assert loaded
    tasks.append(path, "worker")


def frozen() -> int:
    return gc.get_freeze_count()


def fail(kind: type[BaseException], *args: object) -> NoReturn:
    raise kind(*args)


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise TypeError("not this one")


def test_once_for_all_workers(pool, start_method, tmp_path):
    log = tmp_path / "log"
    p = pool(
        None,
        processes=2,
        maxtasksperchild=1,
        template_initializer=load,
        template_initargs=[str(log), "model"],
    )
    found = [p.apply_async(what_is_loaded).get(DEADLINE) for _ in range(5)]
    (template,) = {ppid for _, ppid, _ in found}
    assert log.read_text().split() == [str(template)]
    assert len({pid for pid, _, _ in found}) == 5
    assert all(model == ["model"] for _, _, model in found)
    assert loaded == []


def test_before_the_initializer(pool, tmp_path):
    log = tmp_path / "log"
    pool(
        None,
        processes=2,
        template_initializer=load,
        template_initargs=(str(log),),
        initializer=loaded_before,
        initargs=(str(log),),
    )
    assert log.read_text().split()[1:] == ["worker", "worker"]


def test_what_it_makes_is_frozen(pool, tmp_path):
    p = pool(1)
    before = p.apply_async(frozen).get(DEADLINE)
    many = [[] for _ in range(10_000)]
    p = pool(
        1,
        context="spawn",
        template_initializer=load,
        template_initargs=(str(tmp_path / "log"), many),
    )
    assert before > 1000
    assert p.apply_async(frozen).get(DEADLINE) > 10_000


@pytest.mark.parametrize(
    "error, arrives_as",
    [
        ((ValueError, "no model"), ValueError),
        ((SystemExit, "no model"), SystemExit),
        ((Unpicklable, "no model"), UnpicklableError),
        ((ValueError, "no model" * 100_000), PoolError),
    ],
    ids=["error", "exit", "unpicklable", "long"],
)
def test_what_it_raises_is_raised_by_run(start_method, error, arrives_as):
    p = TaskPool(2, template_initializer=fail, template_initargs=error, context=start_method)
    for _ in range(2):  # nothing is left, it may be tried again
        with pytest.raises(arrives_as, match="no model"):
            p.run()


def test_what_it_raises_breaks_a_pool_that_does_not_wait():
    p = TaskPool(
        2, template_initializer=fail, template_initargs=(ValueError, "no model"), context="fork"
    )
    p.run(wait=False)
    with pytest.raises(StartError, match="no model") as caught:
        p.apply_async(tasks.pid).get(DEADLINE)
    assert isinstance(caught.value.cause, ValueError)
    p.terminate()


def test_a_pool_ends_at_once_while_it_runs(start_method, gate):
    p = TaskPool(
        2, context=start_method, template_initializer=tasks.pass_gate, template_initargs=[gate.path]
    )
    p.run(wait=False)
    gate.await_tasks()
    r = p.apply_async(tasks.pid)
    start = time.monotonic()
    p.terminate()
    took(start, TEMPLATE_GRACE)
    with pytest.raises(PoolTerminated):
        r.get(DEADLINE)


def test_the_next_template_calls_it_again(pool, tmp_path):
    log = tmp_path / "log"
    p = pool(1, template_initializer=load, template_initargs=(str(log),))
    worker, template, _ = p.apply_async(what_is_loaded).get(DEADLINE)
    os.kill(template, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: p.get_worker_pids() not in ([], [worker]), DEADLINE)
    _, second, model = p.apply_async(what_is_loaded).get(DEADLINE)
    assert second != template
    assert model == [None]
    assert log.read_text().split() == [str(template), str(second)]


def test_one_that_fails_later_is_tried_again(tmp_path):
    log, forbidden = tmp_path / "log", tmp_path / "forbidden"
    told = Log()
    p = TaskPool(
        1,
        logger=told.logger,
        template_initializer=load_unless,
        template_initargs=(str(log), str(forbidden)),
        context="fork",
    )
    with p:
        worker, template, _ = p.apply_async(what_is_loaded).get(DEADLINE)
        forbidden.touch()
        os.kill(template, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(log.read_text().split()) >= 3, DEADLINE, "two more templates")
        waits = p.apply_async(what_is_loaded)
        forbidden.unlink()
        assert waits.get(DEADLINE)[1] == int(log.read_text().split()[-1])
    assert LookupError in told.kinds


@pytest.mark.parametrize("wrong", [3, "name"])
def test_it_has_to_be_callable(wrong):
    with pytest.raises(TypeError, match="template_initializer"):
        TaskPool(1, template_initializer=wrong)


def test_the_template_is_gone_before_it_is_asked_for_workers(monkeypatch):
    p = TaskPool(2, template_initializer=os._exit, template_initargs=(0,), context="fork")

    def make_template(roster, really=Roster.make_template):
        made = really(roster)
        wait_until(lambda: is_gone(made.pid), DEADLINE)
        return made

    monkeypatch.setattr(Roster, "make_template", make_template)
    for _ in range(2):
        with pytest.raises(StartError, match="template process died"):
            p.run()
