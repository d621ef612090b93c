"""What an import costs: facades and heavy modules only when they are asked for."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

import celery_pool
from celery_pool import errors
from support import PYTHON

#: Of the standard library; what they cost was measured, and none is needed to run a task.
HEAVY = {
    "concurrent.futures",
    "dataclasses",
    "inspect",
    "logging",
    "multiprocessing.connection",
    "multiprocessing.pool",
    "pathlib",
    "pickletools",
    "tempfile",
    "traceback",
    "typing",
}


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json\nprint(json.dumps([*sys.modules]))"
    # without the site's own imports (editable installs have some)
    out = subprocess.check_output(
        [*PYTHON, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"], timeout=30
    )
    return set(json.loads(out.splitlines()[-1]))


def test_importing_the_package_imports_nothing_of_it() -> None:
    bare = imported_by("")
    assert imported_by("import celery_pool") - bare <= {"celery_pool", "celery_pool._version"} | {
        "json"
    }


def test_the_pool_imports_no_facade_and_nothing_heavy() -> None:
    got = imported_by("from celery_pool import TaskPool") - imported_by("")
    assert "celery_pool.taskpool" in got
    assert not got & HEAVY
    assert not [name for name in got if name.startswith(("celery_pool.pool", "celery_pool.exec"))]


def test_nor_does_the_life_of_a_pool() -> None:
    life = """
from celery_pool import TaskPool
if __name__ == "__main__":
    p = TaskPool(2, context="fork")
    p.run()
    assert p.apply_async(int).get() == 0
    p.close()
    p.join()
"""
    assert not (imported_by(life) - imported_by("")) & HEAVY


def test_the_template_imports_nothing_that_only_the_parent_needs() -> None:
    got = imported_by("import celery_pool.child.template") - imported_by("")
    assert not got & HEAVY
    ours = {name.split(".")[1] for name in got if name.startswith("celery_pool.")}
    assert not ours & {
        "supervision",
        "taskpool",
        "options",
        "settings",
        "reports",
        "pool",
        "executor",
        "aio",
    }


def test_every_public_name_is_there() -> None:
    listed = dir(celery_pool)
    for name in celery_pool.__all__:
        assert name in listed
        assert getattr(celery_pool, name) is not None
    space: dict[str, object] = {}
    exec("from celery_pool import *", space)
    assert set(celery_pool.__all__) <= set(space)
    assert celery_pool.errors is errors


@pytest.mark.parametrize("module", [celery_pool, errors], ids=["celery_pool", "errors"])
def test_an_unknown_name_is_an_attribute_error(module: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'TaskPole'"):
        _ = module.TaskPole  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_say_that_they_are_of_the_public_module(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.__module__ == "celery_pool.errors"
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert getattr(celery_pool, name) is kind
