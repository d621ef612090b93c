"""What a task sees of multiprocessing, of its worker and of what the program was at run()."""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

import tasks
from celery_pool import TaskPool
from guards import wait_until
from support import DEADLINE, Gate


def identity() -> tuple[int, ...]:
    return multiprocessing.current_process()._identity


def identity_at(gate: str) -> tuple[int, ...]:
    tasks.pass_gate(gate)
    return identity()


def identities(p, tmp_path, count, name="gate"):
    """Of all workers: each waits until all are there."""
    gate = Gate(tmp_path, name)
    results = [p.apply_async(identity_at, (gate.path,)) for _ in range(count)]
    gate.await_tasks(count)
    gate.open()
    return sorted(r.get(DEADLINE) for r in results)


# ---- multiprocessing ----


def test_identities_are_those_of_a_standard_pool(pool, start_method, tmp_path):
    p = pool(None, processes=4)
    assert identities(p, tmp_path, 4) == [(1,), (2,), (3,), (4,)]


def test_a_replacement_has_the_identity_of_its_predecessor(pool, start_method, tmp_path):
    p = pool(None, processes=3)
    gate = Gate(tmp_path)
    results = [p.apply_async(identity_at, (gate.path,)) for _ in range(3)]
    victim = gate.await_tasks(3)[1]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: any(r.ready() for r in results), DEADLINE)
    wait_until(lambda: victim not in p.get_worker_pids() and len(p.get_worker_pids()) == 3)
    gate.open()
    assert identities(p, tmp_path, 3, "second") == [(1,), (2,), (3,)]


class Seen:
    """Counts, in files, who runs with which identity at the same time."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, seconds: float) -> int:
        (mine,) = identity()
        path = os.path.join(self.folder, str(mine))
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # nobody else has it now
        time.sleep(seconds)
        os.unlink(path)
        return mine


@pytest.mark.parametrize("processes, each", [(2, 1), (3, 2), (5, 3)])
def test_no_two_tasks_run_with_the_same_identity(pool, tmp_path, processes, each):
    p = pool(None, processes=processes, maxtasksperchild=each)
    results = [
        p.apply_async(Seen(str(tmp_path)), (0.001 * (i % 7),)) for i in range(20 * processes)
    ]
    assert {r.get(DEADLINE) for r in results} == set(range(1, processes + 1))


def test_identities_after_shrinking_and_growing(pool, tmp_path):
    p = pool(None, processes=4)
    p.shrink(2)
    wait_until(lambda: p.statistics().workers == 2, DEADLINE)
    assert identities(p, tmp_path, 2, "two") == [(1,), (2,)]
    p.grow(3)
    assert identities(p, tmp_path, 5, "five") == [(i,) for i in range(1, 6)]


def test_a_pool_within_a_process_has_identities_below_its(start_method):
    process = multiprocessing.get_context("spawn").Process(target=_nested, args=(start_method,))
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0


def _nested(method: str) -> None:
    with TaskPool(1, context=method) as p:
        assert p.apply_async(identity).get(DEADLINE) == (*identity(), 1)


def method_of_a_child() -> str:
    """What a process that a task starts says."""
    with multiprocessing.Pool(1) as p:
        return p.apply(tasks.start_method)


def test_the_start_method_is_that_of_the_pools_context(pool, start_method):
    p = pool(1, maxtasksperchild=2)
    for _ in range(2):  # replacements, too
        assert p.apply_async(tasks.start_method).get(DEADLINE) == start_method
        assert p.apply_async(method_of_a_child).get(DEADLINE) == start_method


# ---- context variables ----

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


def current_request() -> str:
    return request_id.get()


def set_request(value: str) -> None:
    request_id.set(value)


def test_workers_start_with_an_empty_context(pool, start_method):
    token = request_id.set("of an hour ago")
    try:
        p = pool(1, maxtasksperchild=1)
        assert [p.apply_async(current_request).get(DEADLINE) for _ in range(3)] == ["none"] * 3
        assert request_id.get() == "of an hour ago"
    finally:
        request_id.reset(token)


def test_what_initializers_set_in_the_context_is_there(pool):
    p = pool(1, initializer=set_request, initargs=("worker",))
    assert p.apply_async(current_request).get(DEADLINE) == "worker"
    p = pool(1, template_initializer=set_request, template_initargs=("template",))
    assert p.apply_async(current_request).get(DEADLINE) == "template"


# ---- NumPy's global generator ----


def draw(gate: str | None = None) -> float:
    if gate is not None:
        tasks.pass_gate(gate)
    return np.random.random()


def seed() -> None:
    np.random.seed(7)


def draws(p, tmp_path, name):
    """One by each of four workers, then by fresh ones."""
    gate = Gate(tmp_path, name)
    results = [p.apply_async(draw, (gate.path,)) for _ in range(4)]
    gate.await_tasks(4)
    gate.open()
    return [r.get(DEADLINE) for r in results] + [p.apply_async(draw).get(DEADLINE)]


def test_each_worker_draws_numbers_of_its_own(pool, start_method, tmp_path):
    p = pool(None, processes=4, maxtasksperchild=1)
    assert len(set(draws(p, tmp_path, "gate"))) == 5


def test_without_reseeding_all_draw_the_same_under_fork(pool, tmp_path):
    state = np.random.get_state()
    p = pool(None, processes=4, maxtasksperchild=1, reseed=False)
    assert set(draws(p, tmp_path, "gate")) == {draw()}
    np.random.set_state(state)


def test_an_initializer_that_seeds_has_the_last_word(pool):
    p = pool(1, maxtasksperchild=1, initializer=seed)
    assert len({p.apply_async(draw).get(DEADLINE) for _ in range(3)}) == 1


def test_numpy_is_not_loaded_for_that(pool):
    p = pool(1, context="spawn")
    assert p.apply_async(tasks.modules_loaded, ("numpy",)).get(DEADLINE) == []
