"""What goes wrong: in tasks, in pickling, in the caller's arguments."""

from __future__ import annotations

import contextlib
import multiprocessing.pool
import pickle
import traceback
from concurrent.futures import Future

import pytest

import celery_pool
import tasks
from celery_pool import ExceptionInfo, PoolError, ResultDecodingError, ResultEncodingError, TaskPool
from guards import wait_until
from support import (
    DEADLINE,
    Background,
    Calls,
    Recorder,
    at_rest,
    failure,
    named,
    run_program,
    run_script,
)


def outcome(p: TaskPool, target, *args):
    """The exception that the task fails with; get() and errback agree."""
    bad = Calls()
    r = p.apply_async(target, args, errbacks=bad)
    with pytest.raises(BaseException) as caught:
        Background(r.get, DEADLINE).result()
    assert not isinstance(caught.value, (AssertionError, multiprocessing.TimeoutError))
    assert not r.successful()
    assert bad.values == [caught.value]
    return caught.value


# ---- in tasks ----


@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        KeyError,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        StopIteration,
        BaseException,
    ],
)
def test_every_base_exception_is_delivered(pool, kind):
    p = pool(1)
    workers = p.get_worker_pids()
    error = outcome(p, tasks.fail, kind, "why")
    assert type(error) is kind
    assert error.args == ("why",)
    assert f"{kind.__name__}" in str(error.__cause__)
    assert "in fail" in str(error.__cause__)
    assert p.apply_async(tasks.pid).get(DEADLINE) == workers[0]
    assert p.get_worker_pids() == workers
    statistics = p.statistics()
    assert (statistics.failed, statistics.lost, statistics.succeeded) == (1, 0, 1)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_the_worker_lives_on(pool, start_method, kind):
    p = pool(1)
    workers = p.get_worker_pids()
    assert type(outcome(p, tasks.fail, kind)) is kind
    assert [p.apply_async(tasks.pid).get(DEADLINE)] == workers


def test_exception_attributes_survive(pool):
    error = outcome(pool(1), open, "/nonexistent/file")
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename) == (2, "/nonexistent/file")


def test_wrong_arguments_fail_the_task(pool):
    assert isinstance(outcome(pool(1), tasks.same, 1, 2, 3), TypeError)


def test_a_returned_exception_info_is_a_failure(pool):
    p = pool(1)
    good = Calls()
    error = outcome(p, tasks.return_exception_info, "key")
    assert isinstance(error, KeyError)
    assert error.args == ("key",)
    assert "in return_exception_info" in str(error.__cause__)
    r = p.apply_async(tasks.return_exception_info, ("k",), callbacks=good)
    r.wait(DEADLINE)
    assert not good.calls
    assert p.statistics().failed == 2


def test_a_returned_exception_info_that_cannot_be_pickled(pool):
    error = outcome(pool(1), tasks.return_stubborn_exception_info)
    assert isinstance(error, PoolError)
    assert "Stubborn" in str(error)


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ((tasks.Stubborn, "gone"), "Stubborn"),
        ((tasks.TwoArguments, "a", "b"), "TwoArguments"),
        ((tasks.Unprintable,), "Unprintable"),
        ((ValueError, tasks.OnlyHere), "ValueError"),
    ],
    ids=["not pickled", "not unpickled", "unprintable", "holds a class"],
)
def test_exceptions_that_do_not_travel(pool, args, name):
    p = pool(1)
    workers = p.get_worker_pids()
    error = outcome(p, tasks.fail, *args)
    if name in ("Stubborn", "TwoArguments"):
        assert isinstance(error, PoolError)
        assert name in str(error)
    assert name in str(error.__cause__)
    assert "in fail" in str(error.__cause__)
    assert p.get_worker_pids() == workers
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_an_exception_with_an_unpicklable_argument(pool):
    p = pool(1)
    r = p.apply_async(exec, ("raise ValueError(lambda: 'inside')", {}))
    with pytest.raises(PoolError, match="ValueError"):
        r.get(DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_a_huge_exception(pool):
    error = outcome(pool(1), tasks.fail, ValueError, "x" * 3_000_000)
    assert type(error) is ValueError
    assert error.args == ("x" * 3_000_000,)


# ---- results that do not travel ----


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, RecursionError])
def test_a_result_that_raises_when_pickled(pool, kind):
    p = pool(1)
    workers = p.get_worker_pids()
    error = outcome(p, tasks.raises_when_pickled, kind)
    if issubclass(kind, Exception):
        assert isinstance(error, ResultEncodingError)
        assert isinstance(error, multiprocessing.pool.MaybeEncodingError)
        assert "RaisesWhenPickled" in str(error)
        assert "no pickling" in str(error)
    assert "no pickling" in str(error.__cause__)
    assert p.get_worker_pids() == workers
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_an_unpicklable_result(pool, start_method):
    p = pool(1)
    error = outcome(p, tasks.unpicklable)
    assert isinstance(error, ResultEncodingError)
    assert "function" in str(error)
    assert "Traceback" in str(error.__cause__)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_result_that_does_not_unpickle_here(pool, kind):
    p = pool(1)
    bad, good = Calls(), Calls()
    r = p.apply_async(tasks.only_here, (kind,), callbacks=good, errbacks=bad)
    wait_until(lambda: bad.calls, 5, "the errback")
    error = bad.values[0]
    assert isinstance(error, ResultDecodingError)
    assert kind.__name__ in str(error)
    assert "cannot be moved" in str(error)
    assert isinstance(error.__cause__, kind)
    assert error.__cause__.__traceback__ is not None
    with pytest.raises(ResultDecodingError):
        r.get(DEADLINE)
    assert not r.successful()
    assert not good.calls
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    wait_until(lambda: at_rest(p), DEADLINE)
    statistics = p.statistics()
    assert (statistics.succeeded, statistics.failed) == (1, 1)


@pytest.mark.parametrize("mode", ["any", "caller"])
def test_a_result_that_raises_keyboard_interrupt_when_unpickled(mode):
    """It fails its task, and is not tried for ever. In another process: if it is taken
    for a Ctrl-C it ends the test run."""
    done = run_script(
        f"""
import tasks
from celery_pool import TaskPool

seen = []
with TaskPool(1, context="fork", callbacks_in={mode!r}) as pool:
    pool.apply_async(
        tasks.only_here, (KeyboardInterrupt,), errbacks=lambda exc, meta: seen.append(exc)
    )
    interrupts = 0
    while True:
        try:
            if not pool.wait_for_result():
                break
        except KeyboardInterrupt:  # in the main thread it may be somebody's Ctrl-C, once
            interrupts += 1
print([type(exc).__name__ for exc in seen], interrupts <= 1)
""",
        timeout=10,
    )
    assert (done.returncode, done.stdout) == (0, "['ResultDecodingError'] True\n"), done.stderr


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_result_that_does_not_unpickle_in_get(pool, kind):
    """Without callbacks nobody unpickles it before."""
    p = pool(1)
    r = p.apply_async(tasks.only_here, (kind,))
    for _ in range(2):
        with pytest.raises(ResultDecodingError, match="cannot be moved"):
            r.get(DEADLINE)
    assert not r.successful()
    # the task has succeeded: counted when it was reaped, and counters never go back
    assert (p.statistics().succeeded, p.statistics().failed) == (1, 0)


def test_a_result_that_does_not_unpickle_for_a_callback(pool):
    """It is unpickled before it is counted."""
    p = pool(1)
    calls, errors = Calls(), Calls()
    p.apply_async(tasks.only_here, (ValueError,), callbacks=[calls], errbacks=[errors])
    p.close()
    assert p.join(DEADLINE)
    assert (len(calls.values), len(errors.values)) == (0, 1)
    assert (p.statistics().succeeded, p.statistics().failed) == (0, 1)


def test_arguments_that_do_not_unpickle_there(pool):
    p = pool(1)
    workers = p.get_worker_pids()
    error = outcome(p, tasks.same, tasks.OnlyHere())
    assert isinstance(error, ValueError)
    assert "cannot be moved" in str(error)
    assert p.get_worker_pids() == workers


# ---- ExceptionInfo ----


def test_exception_info_of_a_failed_task():
    p = Recorder(1, context="fork")
    with p:
        p.apply_async(tasks.fail_deeply, ("deep",)).wait(DEADLINE)
    info = p.returned[0][0]
    assert info.type is ValueError
    assert isinstance(failure(info), ValueError)
    assert isinstance(info.traceback, str)
    assert "the_innermost_function" in info.traceback
    assert str(info) == info.traceback
    assert "deep" in repr(info)


def test_exception_info_is_made_of_several_things():
    try:
        raise KeyError("k")
    except KeyError as error:
        made = [ExceptionInfo(), ExceptionInfo(error), ExceptionInfo(__import__("sys").exc_info())]
    for info in made:
        assert info.type is KeyError
        assert info.exception is made[0].exception
        assert "test_exception_info_is_made_of_several_things" in info.traceback
    with pytest.raises(ValueError, match="needs an exception"):
        ExceptionInfo()


# ---- the classes ----


def test_one_base():
    for name in celery_pool.__all__:
        member = getattr(celery_pool, name)
        if isinstance(member, type) and issubclass(member, BaseException):
            assert issubclass(member, PoolError), name
    assert issubclass(PoolError, Exception)


@pytest.mark.parametrize(
    "error",
    [
        celery_pool.PoolNotRunning("text"),
        celery_pool.PoolTerminated("text", 5),
        celery_pool.WorkerLostError(1, -9, 3),
        celery_pool.WorkerLostError(1, None),
        celery_pool.ResultDecodingError("text"),
        celery_pool.ResultEncodingError(ValueError("x"), "value"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


# ---- misuse ----


@pytest.mark.parametrize("limit", [0, -1, -(10**30)])
def test_limit_below_one(limit):
    with pytest.raises(ValueError, match="limit"):
        TaskPool(limit)


@pytest.mark.parametrize("limit", [1.0, "2", [], 0.5, True, False], ids=repr)
def test_limit_of_a_wrong_type(limit):
    with pytest.raises(TypeError):
        TaskPool(limit)


@pytest.mark.parametrize("limit", [2**64, 10**30])
def test_limit_beyond_reason(limit):
    """Accepted or a ValueError; not an OverflowError with a C type in its text."""
    with contextlib.suppress(ValueError):
        TaskPool(limit, processes=1)


def test_processes():
    with pytest.raises(ValueError, match="processes"):
        TaskPool(2, processes=3)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="processes"):
            TaskPool(2, processes=bad)
    for wrong in (1.0, "1", True):
        with pytest.raises(TypeError):
            TaskPool(2, processes=wrong)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"context": "no such method"}, ValueError),
        ({"context": 5}, (TypeError, ValueError)),
        ({"initializer": 5}, TypeError),
        ({"initargs": 5}, TypeError),
        ({"on_start": 5}, TypeError),
        ({"on_broken": "f"}, TypeError),
        ({"start_retries": -1}, ValueError),
        ({"start_retries": 1.5}, TypeError),
        ({"start_retries": True}, TypeError),
        ({"start_timeout": -1}, ValueError),
        ({"start_timeout": "1"}, TypeError),
        ({"start_timeout": float("nan")}, ValueError),
        ({"reap_timeout": -1}, ValueError),
        ({"reap_timeout": "1"}, TypeError),
        ({"callbacks_in": "nowhere"}, ValueError),
        ({"callbacks_in": []}, (TypeError, ValueError)),
        ({"spin": -1}, ValueError),
        ({"spin": "fast"}, (TypeError, ValueError)),
        ({"nonsense": 1}, TypeError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_options(options, error):
    with pytest.raises(error):
        TaskPool(1, **options)


@pytest.mark.parametrize("bad", [None, 5, "f", object()], ids=named)
def test_target_not_callable(pool, bad):
    p = pool(1)
    with pytest.raises(TypeError, match="target"):
        p.apply_async(bad)
    assert p.statistics().submitted == 0


@pytest.mark.parametrize("name", ["callbacks", "errbacks"])
@pytest.mark.parametrize("bad", [5, [5], [tasks.nothing, None], "text", [None]], ids=named)
def test_callbacks_not_callable(pool, name, bad):
    p = pool(1)
    with pytest.raises(TypeError, match="callable|iterable"):
        p.apply_async(tasks.nothing, **{name: bad})
    with pytest.raises(TypeError, match="callable|iterable"):
        p.add(Future(), **{name: bad})
    assert p.statistics().submitted == 0


@pytest.mark.parametrize("bad", [5, "f", []], ids=named)
def test_on_acknowledge_not_callable(pool, bad):
    p = pool(1)
    with pytest.raises(TypeError, match="on_acknowledge"):
        p.apply_async(tasks.nothing, on_acknowledge=bad)
    assert p.statistics().submitted == 0


@pytest.mark.parametrize("target", [tasks.echo, tasks.Point(1)], ids=["id", "pickled"])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(5, None), (None, 5), (None, "ab"), (None, [1, 2])],
    ids=["args=5", "kwargs=5", "kwargs=ab", "kwargs=[1, 2]"],
)
def test_arguments_that_are_none(pool, target, args, kwargs):
    p = pool(1)
    workers = p.get_worker_pids()
    with pytest.raises((TypeError, ValueError)):
        p.apply_async(target, args, kwargs)
    assert p.statistics().submitted == 0
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert p.get_worker_pids() == workers


@pytest.mark.parametrize("target", [tasks.echo, tasks.Point(1)], ids=["id", "pickled"])
def test_keywords_that_are_no_names(pool, target):
    p = pool(1)
    workers = p.get_worker_pids()
    with pytest.raises(TypeError):
        p.apply_async(target, None, {1: 2}).get(DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    assert p.get_worker_pids() == workers


def test_a_traceback_that_cannot_be_formatted(pool, monkeypatch):
    """Where warnings are errors, a warning about the module of one of its frames."""

    def warn(*args):
        raise DeprecationWarning("no loader")

    monkeypatch.setattr(traceback, "format_exception", warn)
    p = pool(1)
    error = outcome(p, tasks.fail, ValueError, "text")
    assert type(error) is ValueError
    assert str(error) == "text"
    assert "could not be formatted: no loader" in str(error.__cause__)


LATE = """
from celery_pool import Pool, TaskPool

if __name__ == "__main__":
    with TaskPool(2, context={method!r}) as pool, Pool(1, context={method!r}) as standard:

        def late(x):
            return x

        class Late:
            pass

        for result in (
            pool.apply_async(late, (1,)),
            pool.apply_async(type, (Late(),)),
            standard.map_async(late, [1]),
        ):
            try:
                result.get(30)
            except AttributeError as error:
                print(error)
"""


def test_what_main_did_not_have_when_the_pool_was_made_names_the_way_out(tmp_path, start_method):
    script = tmp_path / "script.py"
    script.write_text(LATE.format(method=start_method))
    done = run_program(script, timeout=50)
    assert done.stderr == ""
    told = done.stdout.splitlines()
    for line, name in zip(told, ["'late'", "'Late'", "'late'"], strict=True):
        assert name in line
        assert "_main__'" in line
        assert line.endswith("Make the pool after this, or with pickler=cloudpickle")


def test_an_attribute_error_of_the_task_itself_is_left_alone(pool):
    p = pool(2, processes=1)
    text = "Can't get attribute 'x' on <module '__main__'>"
    with pytest.raises(AttributeError) as caught:
        p.apply_async(tasks.fail, (AttributeError, text)).get(DEADLINE)
    assert caught.value.args == (text,)
