"""The rooms of the package: which may import which, and what is private to whom.

docs/design.md says why.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import celery_pool

SOURCE = Path(celery_pool.__file__).parent

FACADES = ("pool", "executor", "aio")
#: What may use nothing but public names; the last two are to come.
GUESTS = ("ext", "cli", "cluster", "observe")

#: Inner modules that guests may import all the same, and why.
FOR_GUESTS = {
    "celery_pool._poolcore.PoolMap": "what a pool shows to onlookers",
    "celery_pool._poolcore.WorkerMap": "the same, of a worker",
    "celery_pool._poolcore.layout": "where the one word is that an onlooker may write",
    "celery_pool.child.stacks": "what of a stack is the task's",
    "celery_pool.errors": "public",
    "celery_pool.host.cpus": "the default number of processes, before there is a pool",
    "celery_pool.host.dumps": "what a process does when it is asked for its stacks",
    "celery_pool.host.signals": "whether a signal would end the process that is asked",
    "celery_pool.observe": "public",
    "celery_pool.options": "public",
    "celery_pool.taskpool": "TaskPool and its results; `celery_pool` itself imports all facades",
    "celery_pool.wire.remote": "UnpicklableError, which users can receive",
}


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        yield ".".join(("celery_pool", *path.relative_to(SOURCE).with_suffix("").parts)), path


def imports(module, tree):
    """Absolute names of what is imported, of modules and from them."""
    package = module.removesuffix(".__init__").split(".")
    if not module.endswith(".__init__"):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(module, source):
    tree = ast.parse(source)
    room = module.split(".")[1]
    for name in imports(module, tree):
        if not name.startswith("celery_pool."):
            continue
        other = name.split(".")[1]
        if room == "child" and other == "supervision":
            yield f"{module} imports {name}: a child knows nothing of supervision"
        if other == "supervision" and room not in ("supervision", "taskpool", "settings", "child"):
            yield f"{module} imports {name}: supervision is TaskPool's alone"
        if room in FACADES and (other in {*FACADES, "_poolcore"} - {room}):
            yield f"{module} imports {name}: a facade builds on TaskPool alone"
        if room in GUESTS and other != room:
            inner = (SOURCE / other).is_dir() or (SOURCE / f"{other}.py").exists()
            if (inner or other == "_poolcore") and not name.startswith(tuple(FOR_GUESTS)):
                yield f"{module} imports {name}, which is not public"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.func if isinstance(node.value, ast.Call) else node.value
        mine = isinstance(owner, ast.Name) and owner.id in ("self", "cls", "os", "super")
        if room in FACADES and node.attr in ("_core", "_supervisor"):
            yield f"{module}:{node.lineno} touches {node.attr}"
        if room in GUESTS and not mine and node.attr.startswith("_") and node.attr[1] != "_":
            yield f"{module}:{node.lineno} uses the private {node.attr}"


@pytest.mark.parametrize("module, path", [*modules()], ids=lambda x: x if type(x) is str else "")
def test_rooms(module, path):
    assert list(violations(module, path.read_text())) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("celery_pool.child.worker", "from ..supervision.policy import Policy"),
        ("celery_pool.aio.api", "from ..supervision import supervisor"),
        ("celery_pool.aio.api", "from ..executor.futures import TaskFuture"),
        ("celery_pool.pool.__init__", "import celery_pool.executor.api"),
        ("celery_pool.executor.api", "from .._poolcore import Core"),
        ("celery_pool.executor.api", "pool._core.pending_jobs()"),
        ("celery_pool.wire.remote", "from celery_pool.supervision import roster"),
        ("celery_pool.ext.joblib", "from .._poolcore import AsyncResult"),
        ("celery_pool.cli.map_command", "from ..settings import Settings"),
        ("celery_pool.observe.top", "pool._begin_kill()"),
    ],
)
def test_a_violation_is_seen(module, source):
    assert len(list(violations(module, source))) == 1


def test_no_file_is_long():
    """A file of more than 500 lines has two subjects."""
    assert [name for name, path in modules() if len(path.read_text().splitlines()) > 500] == []
