"""Functions by id: sent once to each worker, loaded there at their first use."""

from __future__ import annotations

import copyreg
import functools
import importlib
import itertools
import os
import pickle
import sys

import pytest

import many_functions
import tasks
from celery_pool.wire.functions import pickled_global
from support import DEADLINE, Calls, named


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Makes modules that can be imported here and in workers started afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)
        importlib.invalidate_caches()

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_more_functions_than_a_worker_keeps(pool, start_method):
    p = pool(64, processes=2)
    functions = [getattr(many_functions, f"f{i}") for i in range(many_functions.COUNT)]
    assert len(functions) > 1024
    for offset in (0, 10_000):
        results = [p.apply_async(f, (offset,)) for f in functions]
        assert [r.get(DEADLINE) for r in results] == [
            i + offset for i in range(many_functions.COUNT)
        ]


def test_alternating_far_apart(pool):
    """Functions that share a place in the worker's table."""
    p = pool(8, processes=1)
    functions = [getattr(many_functions, f"f{i}") for i in range(many_functions.COUNT)]
    for f in functions:
        p.apply_async(f, (0,))
    for _ in range(20):
        results = [p.apply_async(functions[i], (1,)) for i in (0, 1024, 1, 1025, 0)]
        assert [r.get(DEADLINE) for r in results] == [1, 1025, 2, 1026, 1]


def test_a_function_reaches_every_worker_also_a_new_one(pool):
    p = pool(2)
    seen = set()
    for _ in range(3):
        pids = p.get_worker_pids()
        results = [p.apply_async(tasks.pid) for _ in range(20)]
        seen |= {r.get(DEADLINE) for r in results}
        p.apply_async(tasks.die).wait(DEADLINE)
        assert p.apply_async(tasks.pid).get(DEADLINE)
        assert pids
    assert os.getpid() not in seen


def test_a_task_behind_the_death_of_the_worker_that_knew_the_function(pool, tmp_path):
    """The journal's tasks go to a worker that was never sent their functions."""
    p = pool(20, processes=1)
    p.apply_async(tasks.same, (1,)).get(DEADLINE)
    p.apply_async(tasks.die)
    results = [p.apply_async(tasks.same, (i,)) for i in range(5)]
    results += [p.apply_async(tasks.digest, (b"x",)) for _ in range(5)]
    assert [r.get(DEADLINE) for r in results] == [0, 1, 2, 3, 4] + [tasks.digest(b"x")] * 5


def test_imported_in_the_worker_at_its_first_use(pool, start_method, module):
    module("late_module", "def double(x):\n    return 2 * x\n")
    p = pool(1)
    assert p.apply_async(tasks.modules_loaded, ("late_module",)).get(DEADLINE) == []
    late = importlib.import_module("late_module")
    assert p.apply_async(late.double, (4,)).get(DEADLINE) == 8
    assert p.apply_async(tasks.modules_loaded, ("late_module",)).get(DEADLINE) == ["late_module"]


def test_a_failing_import_in_the_worker_is_tried_again(pool, start_method, module, tmp_path):
    flag = tmp_path / "flag"
    module(
        "moody_module",
        f"import os\n"
        f"if not os.path.exists({str(flag)!r}):\n"
        f"    raise ImportError('not in the mood')\n"
        f"def double(x):\n    return 2 * x\n",
    )
    p = pool(1)
    flag.touch()
    moody = importlib.import_module("moody_module")
    flag.unlink()
    for _ in range(2):
        with pytest.raises(ImportError, match="not in the mood"):
            p.apply_async(moody.double, (4,)).get(DEADLINE)
    flag.touch()
    assert p.apply_async(moody.double, (4,)).get(DEADLINE) == 8
    assert len(p.get_worker_pids()) == 1


def test_a_function_that_is_not_there(pool, module):
    module(
        "half_module",
        "import os\nif os.getpid() == %d:\n    def f():\n        pass\n" % os.getpid(),
    )
    p = pool(1)
    half = importlib.import_module("half_module")
    with pytest.raises(AttributeError, match="f"):
        p.apply_async(half.f).get(DEADLINE)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


def test_closures_and_lambdas_are_refused(pool):
    p = pool(1)

    def local():
        pass

    for target in (local, lambda: None):
        with pytest.raises((AttributeError, TypeError, Exception), match="pickle|local"):
            p.apply_async(target)
    assert p.statistics().submitted == 0


def test_a_name_that_now_means_something_else(pool, monkeypatch):
    """The function was never sent: pickling notices."""
    p = pool(1)
    original = tasks.nothing
    monkeypatch.setattr(tasks, "nothing", tasks.same)
    with pytest.raises(Exception, match="not the same object"):
        p.apply_async(original)


class Meta(type):
    pass


class ByValue(metaclass=Meta):
    pass


def test_targets_pickled_by_value(pool, monkeypatch):
    """A registered reducer may give any pickle: only a bare global is sent once."""
    counter = itertools.count()
    monkeypatch.setitem(
        copyreg.dispatch_table, Meta, lambda _: (functools.partial, (tasks.same, next(counter)))
    )
    assert pickled_global(ByValue, pickle.dumps) is None
    p = pool(1)
    results = [p.apply_async(ByValue).get(DEADLINE) for _ in range(3)]
    assert results == sorted(set(results))  # pickled each time


@pytest.mark.parametrize(
    ("target", "is_global"),
    [
        (tasks.same, True),
        (tasks.Point, True),
        (len, True),
        (tasks.Point.scaled, True),
        (tasks.Point.zero, True),
        (tasks.Point(1).scaled, False),
        (functools.partial(tasks.same, 1), False),
        (tasks.Point(1), False),
        ("x".join, False),
    ],
    ids=named,
)
def test_which_pickles_are_bare_globals(target, is_global):
    assert (pickled_global(target, pickle.dumps) is not None) == is_global


def test_classes_of_builtin_types(pool):
    p = pool(2)
    calls = Calls()
    for target in (int, str, list, dict, set, bytes):
        assert p.apply_async(target, callbacks=calls).get(DEADLINE) == target()
    assert len(calls) == 6
