"""blas_threads: how many threads the numeric libraries of a worker use."""

from __future__ import annotations

import os

import numpy  # so that it is loaded before workers are forked
import pytest

from celery_pool import TaskPool
from celery_pool.host.cpus import usable_cpus
from support import DEADLINE

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def settings() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in VARIABLES}


def load() -> None:
    import numpy as np

    assert np


def really() -> set[int]:
    """What the libraries say."""
    import threadpoolctl

    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def test_by_default_nothing_is_set(pool):
    assert set(pool(1).apply_async(settings).get(DEADLINE).values()) == {None}
    assert numpy


@pytest.mark.parametrize("threads", [1, 3])
def test_the_environment(pool, start_method, threads):
    p = pool(1, blas_threads=threads, maxtasksperchild=1)
    for _ in range(2):
        assert set(p.apply_async(settings).get(DEADLINE).values()) == {str(threads)}
    assert not set(settings()) & set(os.environ)  # the program's own is as it was


@pytest.mark.parametrize("processes", [1, 2, 100])
def test_auto_shares_the_cpus_out(processes):
    p = TaskPool(None, processes=processes, blas_threads="auto")
    assert p._settings.plan(processes).blas_threads == max(1, usable_cpus() // processes)


def test_auto_goes_by_the_processes_of_now(pool):
    p = TaskPool(None, processes=usable_cpus(), blas_threads="auto", context="fork")
    p.grow(100)
    p.shrink(usable_cpus() + 99)
    with p:
        assert p.apply_async(settings).get(DEADLINE)["OMP_NUM_THREADS"] == str(usable_cpus())


def test_what_the_user_has_set_stays(pool, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = pool(1, blas_threads="auto").apply_async(settings).get(DEADLINE)
    assert found["OMP_NUM_THREADS"] == "7"
    assert found["MKL_NUM_THREADS"] == str(usable_cpus())
    found = pool(1, blas_threads=2).apply_async(settings).get(DEADLINE)
    assert set(found.values()) == {"2"}  # asked for by name


@pytest.mark.parametrize("how", ["template_initializer", "initializer"])
def test_libraries_heed_it(pool, start_method, how):
    """Loaded before, as under fork here, or in an initializer."""
    pytest.importorskip("threadpoolctl")
    p = pool(1, blas_threads=1, **{how: load})
    assert p.apply_async(really).get(DEADLINE) <= {1}


@pytest.mark.parametrize("wrong, error", [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_wrong_numbers(wrong, error):
    with pytest.raises(error, match=r"blas_threads|integer"):
        TaskPool(1, blas_threads=wrong)


@pytest.mark.parametrize("wrong", ["all", "", True])
def test_wrong_words(wrong):
    with pytest.raises(TypeError, match="integer|bool"):
        TaskPool(1, blas_threads=wrong)
