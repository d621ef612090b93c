"""Never more tasks at a time than processes, and never many more workers, whoever is
recycled, killed or let go meanwhile."""

from __future__ import annotations

import functools
import threading
import time

import pytest

import tasks
from celery_pool import Pool, TaskPool, TaskPoolExecutor
from guards import descendants, wait_until
from support import DEADLINE, Gate, is_gone


@pytest.fixture
def crowd(tmp_path):
    """The folder in which tasks.crowded() counts."""
    folder = tmp_path / "crowd"
    folder.mkdir()
    return str(folder)


class Watch:
    """The most processes at a time below this one, looked at every 5 ms; without those
    that were there when this was made (multiprocessing's own, left by other tests)."""

    def __init__(self):
        self._others = set(descendants())

    def __enter__(self):
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(0.005):
            mine = set(descendants()) - self._others
            running = [pid for pid in mine if not is_gone(pid)]
            self.most = max(self.most, len(running))


def spares(processes):
    return max(1, processes // 4)


@pytest.mark.parametrize("each", [1, 2, 5])
def test_pool_map(start_method, crowd, each):
    with Pool(2, maxtasksperchild=each, context=start_method) as p:
        assert max(p.map(tasks.crowded, [crowd] * 30, 1)) <= 2


@pytest.mark.parametrize("processes, each", [(1, 1), (2, 1), (4, 1), (2, 3)])
def test_task_pool(pool, crowd, processes, each):
    p = pool(None, processes=processes, maxtasksperchild=each)
    results = [p.apply_async(tasks.crowded, (crowd,)) for _ in range(12 * processes)]
    assert max(r.get(DEADLINE) for r in results) <= processes


def test_executor(crowd):
    with TaskPoolExecutor(1, max_tasks_per_child=1, mp_context="fork") as executor:
        assert list(executor.map(tasks.crowded, [crowd] * 12)) == [1] * 12


def test_recycled_by_memory(pool, crowd):
    p = pool(None, processes=1, max_memory_per_child=1)
    results = [p.apply_async(tasks.crowded, (crowd, 0.3)) for _ in range(5)]
    assert [r.get(DEADLINE) for r in results] == [1] * 5
    assert p.statistics().exits["memory"]


def test_killed_workers(pool, crowd):
    p = pool(None, processes=2, maxtasksperchild=3, timeout=0.2)
    results = [p.apply_async(tasks.crowded, (crowd, 0.02 if i % 5 else 9)) for i in range(40)]
    killed = [p.apply_async(tasks.die) for _ in range(5)]
    for result in (*results, *killed):
        result.wait(DEADLINE)
        assert result.ready()
    # the files of those that were killed stay: eight at the most, by then
    counts = [r.get() for r in results if r.successful()]
    left = [r for r in results if not r.successful()]
    assert max(counts) <= 2 + len(left)
    assert len(counts) == 32


def test_resized(pool, crowd):
    p = pool(None, processes=4, maxtasksperchild=2)
    results = [p.apply_async(tasks.crowded, (crowd,)) for _ in range(60)]
    for _ in range(5):
        p.shrink(3)
        p.grow(3)
        results += [p.apply_async(tasks.crowded, (crowd,)) for _ in range(20)]
    assert max(r.get(DEADLINE) for r in results) <= 4


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_workers_and_spares(processes):
    """All of them are about to leave at once, and their tasks take long."""
    watch = Watch()
    with TaskPool(None, processes=processes, maxtasksperchild=10, context="fork") as p:
        with watch:
            results = [p.apply_async(time.sleep, (0.01,)) for _ in range(40 * processes)]
            for result in results:
                result.get(DEADLINE)
        # the template, those that serve and stand by, and those that only have to end
        assert watch.most <= 1 + processes + spares(processes) + processes + 1
        assert len(p.get_worker_pids()) <= processes


def test_slow_finalizers_do_not_multiply_workers(tmp_path):
    """As many as serve may end at a time; then the tasks wait for them."""
    gate = Gate(tmp_path)
    watch = Watch()
    with TaskPool(
        None,
        processes=2,
        maxtasksperchild=1,
        finalizer=functools.partial(tasks.pass_gate, gate.path),
        context="fork",
        leave_timeout=2 * DEADLINE,
    ) as p:
        with watch:
            results = [p.apply_async(tasks.pid) for _ in range(12)]
            wait_until(lambda: sum(r.ready() for r in results) >= 3, DEADLINE)
            stuck = p.statistics().workers
            assert stuck <= 2 + 1 + 2 + 1
            gate.open()
            assert len({r.get(DEADLINE) for r in results}) == 12
        assert watch.most <= 1 + 2 + 1 + 2 + 1


def test_pids_are_of_those_that_serve(pool, tmp_path):
    gate = Gate(tmp_path)
    p = pool(None, processes=1, maxtasksperchild=1)
    first = p.apply_async(tasks.pass_gate, (gate.path,))
    pid = gate.await_tasks()
    wait_until(lambda: p.statistics().workers == 2, DEADLINE, "a spare")
    assert p.get_worker_pids() == list(pid)
    gate.open()
    first.get(DEADLINE)
    wait_until(lambda: p.get_worker_pids() not in ([], list(pid)), DEADLINE, "the spare serves")
    assert len(p.get_worker_pids()) == 1
