"""The options of pools: one list for all of them, which says the truth."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import celery_pool
from celery_pool import Pool, PoolOptions, TaskPool, TaskPoolExecutor, options
from celery_pool.aio import AsyncTaskPool
from celery_pool.cli import map_command
from celery_pool.ext.joblib import CeleryPoolBackend
from support import named

OPTIONS = sorted(PoolOptions.__optional_keys__)
KINDS = {
    TaskPool: PoolOptions,
    Pool: options.SharedOptions,
    TaskPoolExecutor: options.SharedOptions,
    AsyncTaskPool: options.WorkerOptions,
    CeleryPoolBackend: options.WorkerOptions,
}


def described() -> dict[str, str]:
    """What PoolOptions says of each option."""
    text = inspect.getdoc(PoolOptions) or ""
    paragraphs = re.findall(r"^:param (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
    assert len(paragraphs) == text.count(":param")
    return {name: re.sub(r"\s+", " ", what) for name, what in paragraphs}


def test_all_options_are_described_and_have_a_default():
    assert sorted(described()) == OPTIONS
    assert sorted(options.DEFAULTS) == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_the_default_is_as_described(name):
    default = options.DEFAULTS[name]
    told = described()[name]
    if isinstance(default, bool):
        assert re.search(rf"default: {default}\b|{default} \(default\)", told)
    elif name in ("soft_signal", "shield"):
        assert "default: SIG" in told
    elif isinstance(default, (int, float)):
        assert re.search(rf"default: {default:g}\b", told)
    elif isinstance(default, str):
        assert f'"{default}"`` (default)' in told


def test_the_names_are_as_typing_would_have_them():
    """At run time it is a dictionary like any other."""
    given = PoolOptions(processes=2, copy=True)
    assert given == {"processes": 2, "copy": True}
    assert options.SharedOptions.__optional_keys__ < options.WorkerOptions.__optional_keys__
    assert options.WorkerOptions.__optional_keys__ < PoolOptions.__optional_keys__
    assert celery_pool.options is options


@pytest.mark.parametrize("kind", KINDS, ids=named)
def test_an_unknown_option_is_told_by_the_class_that_was_called(kind):
    name = kind.__name__
    with pytest.raises(
        TypeError, match=rf"^{name}\(\) got .* 'timeot'\. Did you mean 'timeout'\?$"
    ):
        kind(4, timeot=3)
    with pytest.raises(TypeError, match=rf"^{name}\(\) got .* 'colour'$"):
        kind(4, colour="red")
    if kind is not TaskPool:
        with pytest.raises(TypeError, match=rf"^{name}\(\) got .*: it is an option of TaskPool"):
            kind(4, callbacks_in="any")


def test_a_name_of_the_signature_is_suggested_as_well():
    with pytest.raises(TypeError, match="Did you mean 'processes'"):
        AsyncTaskPool(4, processess=3)


# ---- docs/options.md ----

TABLE = Path(__file__).parents[2] / "docs" / "options.md"

#: What there is under another name: the class's own.
OWN_NAMES = {
    TaskPoolExecutor: {
        "max_workers": "processes",
        "mp_context": "context",
        "max_tasks_per_child": "maxtasksperchild",
    },
    CeleryPoolBackend: {"inner_max_num_threads": "blas_threads"},
}

#: What is not about the pool: of joblib, and of the facade itself.
NOT_OPTIONS = {"nesting_level", "kill_on_cancel", "lost_breaks_pool"}


def rows() -> dict[str, list[str]]:
    """The table's cells by option."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", TABLE.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def taken_by(kind: type) -> dict[str, str]:
    """Options, and how `kind` calls them."""
    own = set(inspect.signature(kind).parameters) - {"options", "pool_options"} - NOT_OPTIONS
    named = {OWN_NAMES.get(kind, {}).get(name, name): name for name in own}
    return dict.fromkeys(sorted(KINDS[kind].__optional_keys__)) | named


def switches() -> dict[str, str]:
    """Options, and the switches of `celery-pool map` for them."""
    return {
        action.dest: f"`{action.option_strings[0]}`"
        for action in map_command._parser()._actions
        if action.dest in {*OPTIONS, "limit"}
    }


def test_the_table_says_who_takes_what():
    told = rows()
    assert sorted(told) == sorted({*OPTIONS, "limit", "reap_timeout", "logger"})
    for column, kind in enumerate(KINDS):
        expected = {
            name: "yes" if own in (None, name) else f"`{own}`"
            for name, own in taken_by(kind).items()
        }
        assert {name: row[column] for name, row in told.items() if row[column]} == expected
    assert {name: row[len(KINDS)] for name, row in told.items() if row[len(KINDS)]} == switches()


def test_all_tell_what_is_going_on():
    for kind in KINDS:
        for name in ("statistics", "get_worker_pids"):
            assert callable(getattr(kind, name))
