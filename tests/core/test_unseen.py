"""A failed task that nobody has looked at is logged once, when its result goes."""

from __future__ import annotations

import gc
import logging
import os
import pickle

import pytest

import tasks
from celery_pool import Pool
from celery_pool.taskpool import Window
from guards import wait_until
from support import DEADLINE, Log, at_rest, run_script


@pytest.fixture
def log():
    return Log()


def started(pool, log):
    return pool(4, processes=1, logger=log.logger)


def told(p, log):
    """All that was, once all tasks have ended, and the results that nobody holds are gone."""
    p.close()
    p.join()
    return [text for text in log.messages if "nobody has looked" in text]


def test_it_says_function_tid_error_and_where(pool, log):
    p = started(pool, log)
    records = []
    log.logger.addFilter(lambda record: records.append(record.__dict__.copy()) or True)
    pid = p.get_worker_pids()[0]
    p.apply_async(tasks.fail, (ValueError, "why"))
    first, *lines = told(p, log)[0].splitlines()
    assert first == (
        "task 1 (tasks.fail) has failed and nobody has looked at its outcome: ValueError: why"
    )
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: why"
    assert len(told(p, log)) == 1
    facts = {key: records[0][key] for key in ("event", "tid", "function", "pid", "levelno")}
    assert facts == {
        "event": "unseen",
        "tid": 1,
        "function": "tasks.fail",
        "pid": pid,
        "levelno": logging.ERROR,
    }


def test_not_before_the_result_goes(pool, log):
    p = started(pool, log)
    result = p.apply_async(tasks.fail, (ValueError, "why"))
    result.wait(DEADLINE)
    assert result.ready()
    assert told(p, log) == []
    del result
    assert len(told(p, log)) == 1


def look_by_get(result):
    with pytest.raises(ValueError):
        result.get(DEADLINE)


def look_by_successful(result):
    result.wait(DEADLINE)
    assert not result.successful()


@pytest.mark.parametrize("look", [look_by_get, look_by_successful])
def test_not_if_somebody_has_looked(pool, log, look):
    p = started(pool, log)
    look(p.apply_async(tasks.fail, (ValueError, "why")))
    assert told(p, log) == []


@pytest.mark.parametrize("errbacks", [print, [print, print]])
def test_not_if_there_is_an_errback(pool, log, capsys, errbacks):
    p = started(pool, log)
    p.apply_async(tasks.fail, (ValueError, "why"), errbacks=errbacks)
    assert told(p, log) == []
    assert "why" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"callbacks": print},
        {"errbacks": []},
        {"on_acknowledge": tasks.nothing},
        {"callbacks": print, "on_acknowledge": tasks.nothing},
    ],
    ids=lambda options: "-".join(options) or "nothing",
)
def test_whatever_else_was_asked_for(pool, log, options):
    p = started(pool, log)
    p.apply_async(tasks.fail, (KeyError, "why"), **options)
    assert len(told(p, log)) == 1
    assert "KeyError: 'why'" in told(p, log)[0]


def test_the_exception_is_not_unpickled_for_it(pool, log, tmp_path):
    """It would run code of the user's in a destructor; the worker has written down the texts."""
    p = started(pool, log)
    path = tmp_path / "unpickled"
    p.apply_async(tasks.fail_with_a_trap, (str(path),))
    assert "tasks.Trap: snap" in told(p, log)[0]
    assert not path.exists()


def test_a_result_that_turns_out_not_to_unpickle(pool, log):
    p = started(pool, log)
    p.apply_async(tasks.only_here, (), callbacks=tasks.nothing)
    assert "celery_pool.errors.ResultDecodingError: the task's result" in told(p, log)[0]


def test_an_error_too_large_for_the_ring(pool, log):
    p = started(pool, log)
    p.apply_async(tasks.fail, (ValueError, "x" * 300_000))
    assert len(told(p, log)[0]) > 600_000


def test_a_closure_has_no_name_to_tell(pool, log):
    cloudpickle = pytest.importorskip("cloudpickle")
    p = pool(4, processes=1, logger=log.logger, pickler=cloudpickle)
    p.apply_async(lambda: 1 / 0)
    assert told(p, log)[0].startswith("task 1 has failed and nobody has looked")
    assert ", in <lambda>" in told(p, log)[0]


def test_a_failure_in_a_cycle(pool, log):
    p = started(pool, log)
    result = p.apply_async(tasks.fail, (ValueError, "why"))
    result.meta["result"] = result
    result.wait(DEADLINE)
    del result
    gc.collect()
    assert len(told(p, log)) == 1


def test_what_ends_a_task_from_outside_is_told_by_those_who_do(pool, log, gate):
    """Its worker's death once; cancelling and terminating not at all."""
    p = started(pool, log)
    p.apply_async(tasks.die)
    wait_until(lambda: at_rest(p), DEADLINE, "the pool at rest")
    p.apply_async(tasks.pass_gate, (gate.path,))
    gate.await_tasks()
    p.apply_async(tasks.nothing).cancel()
    p.apply_async(tasks.nothing, expires=0)
    p.apply_async(tasks.nothing)
    p.terminate()
    assert told(p, log) == []
    assert [text for text in log.messages if "died" in text]


def test_a_pool_of_the_standard_interface_tells_of_what_cannot_be_pickled(log):
    with Pool(1, logger=log.logger) as pool:
        pool.apply_async(lambda: 1)
        pool.apply_async(tasks.fail, (ValueError, "why"))
        wait_until(lambda: len(log.messages) == 2, DEADLINE, "both")
    assert "ValueError: why" in log.messages[1]


def test_a_map_tells_by_its_result(log):
    with Pool(1, logger=log.logger) as pool:
        with pytest.raises(TypeError):
            pool.map(tasks.square, ["x"])
        for result in [pool.map_async(tasks.square, ["x"]), pool.imap(tasks.square, ["x"])]:
            with pytest.raises(TypeError):
                result.get() if hasattr(result, "get") else next(result)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pool.map_async(tasks.same, [lambda: 1]).get(DEADLINE)
        for call in pool.map_async, pool.imap, pool.imap_unordered:
            call(tasks.square, ["x"])
    assert not [text for text in log.messages if "nobody" in text]


@pytest.mark.parametrize("failed_already", [True, False])
def test_a_job_in_a_window_is_told_by_who_takes_it_out(pool, log, failed_already):
    p = started(pool, log)
    window = Window()
    job = p.apply_async(tasks.fail, (ValueError, "why"))
    if failed_already:
        job.wait(DEADLINE)
    window.put(job)
    del job, window
    assert told(p, log) == []


def test_a_handler_that_raises_does_no_harm(pool, log, capsys):
    p = started(pool, log)
    log.logger.addFilter(lambda record: 1 / 0)
    p.apply_async(tasks.fail, (ValueError, "why"))
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert told(p, log) == []
    assert "could not be logged" in capsys.readouterr().err


def test_not_in_a_forked_child(pool, log):
    p = started(pool, log)
    result = p.apply_async(tasks.fail, (ValueError, "why"))
    result.wait(DEADLINE)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            del result
            status = len(log.messages)
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    del result
    assert len(told(p, log)) == 1


def test_not_while_the_interpreter_shuts_down():
    done = run_script(
        "import tasks\n"
        "from celery_pool import TaskPool\n"
        "if __name__ == '__main__':\n"
        "    with TaskPool(2, context='fork') as pool:\n"
        "        results = [pool.apply_async(tasks.fail, (ValueError, 'why')) for _ in range(3)]\n"
        "    del results[0]\n"
    )
    assert done.returncode == 0
    assert done.stderr.count("nobody has looked at its outcome: ValueError: why") == 1
