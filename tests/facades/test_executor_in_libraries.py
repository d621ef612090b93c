"""TaskPoolExecutor as the executor of dask and APScheduler."""

from __future__ import annotations

import contextlib
import importlib
import operator
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest

import tasks
from celery_pool import TaskPoolExecutor, WorkerLostError
from guards import wait_until
from support import DEADLINE

# here, not in the tests: an error that an import has caught may keep their frames
for library in ("dask", "dask.array", "dask.bag", "dask.delayed", "dask.multiprocessing"):
    with contextlib.suppress(ImportError):
        importlib.import_module(library)


@pytest.fixture
def executor(start_method) -> Iterator[Callable[[], TaskPoolExecutor]]:
    """The test's executor; pytest keeps fixtures, and so this is a function."""
    made = [TaskPoolExecutor(2, start_method)]
    yield lambda: made[0]
    made.pop().shutdown()


# ---- dask ----


def test_dask_delayed(executor):
    dask = pytest.importorskip("dask")
    total = dask.delayed(sum)([dask.delayed(tasks.square)(i) for i in range(50)])
    pid = dask.delayed(tasks.pid)()
    expected = sum(i * i for i in range(50))
    for options in (
        {"scheduler": "processes", "pool": executor()},
        {"scheduler": executor()},
    ):
        got, worker = dask.compute(total, pid, **options)
        assert got == expected
        assert worker in executor()._life.pool.get_worker_pids()
    # by value, with cloudpickle
    doubled = dask.delayed(lambda x: x * 2)(21)
    assert doubled.compute(scheduler="processes", pool=executor()) == 42


def test_dask_bag(executor):
    bag = pytest.importorskip("dask.bag")
    words = bag.from_sequence(["a", "b", "a", "c", "a"] * 20, npartitions=8)
    with pytest.importorskip("dask").config.set(scheduler="processes", pool=executor()):
        assert dict(words.frequencies().compute()) == {"a": 60, "b": 20, "c": 20}


def test_dask_array(executor):
    pytest.importorskip("numpy")
    array = pytest.importorskip("dask.array")
    numbers = array.arange(100_000, chunks=7_000)
    total = (numbers * 2 + 1).sum()
    assert int(total.compute(scheduler="processes", pool=executor())) == 100_000**2
    assert int(total.compute(scheduler=executor())) == 100_000**2


def test_dask_survives_a_lost_worker(executor):
    dask = pytest.importorskip("dask")
    with pytest.raises(WorkerLostError):
        dask.delayed(tasks.die)().compute(scheduler="processes", pool=executor())
    again = dask.delayed(operator.add)(1, 2)
    assert again.compute(scheduler="processes", pool=executor()) == 3


# ---- APScheduler ----


def test_apscheduler(executor, tmp_path, caplog):
    pytest.importorskip("apscheduler")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
        from apscheduler.executors.pool import BasePoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

    class Workers(BasePoolExecutor):
        def __init__(self, pool):
            super().__init__(pool)

    path = tmp_path / "ran"
    events = []
    scheduler = BackgroundScheduler(
        executors={"default": Workers(executor())},
        job_defaults={"misfire_grace_time": None},  # else one that begins late is left out
        timezone="UTC",
    )
    scheduler.add_listener(events.append, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    before = set(threading.enumerate())
    scheduler.start()
    try:
        scheduler.add_job(tasks.append, args=(str(path), "job"), id="fine")
        scheduler.add_job(tasks.die, id="dies")
        scheduler.add_job(tasks.fail, args=(ValueError, "x"), id="fails")
        wait_until(lambda: len(events) == 2, DEADLINE, "two events")
        wait_until(lambda: "Error running job dies" in caplog.text, DEADLINE, "the lost job")
        scheduler.add_job(tasks.square, args=(7,), id="later")
        wait_until(lambda: len(events) == 3, DEADLINE, "the third event")
    finally:
        scheduler.shutdown()
    assert path.read_text() == "job\n"
    by_job = {event.job_id: event for event in events}
    assert by_job["fine"].exception is None and by_job["later"].retval == 49
    assert isinstance(by_job["fails"].exception, ValueError)
    assert "WorkerLostError" in caplog.text
    wait_until(lambda: set(threading.enumerate()) <= before, DEADLINE, "the end of the threads")
