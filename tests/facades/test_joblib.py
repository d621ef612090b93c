"""joblib's Parallel on the backend "celery_pool"."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pickle import PicklingError
from typing import Any

import pytest

joblib = pytest.importorskip("joblib")

from joblib import Parallel, delayed, parallel_config  # noqa: E402

import tasks  # noqa: E402
from celery_pool import PayloadTooLarge, TimeLimitExceeded, WorkerLostError  # noqa: E402
from celery_pool.ext.joblib import CeleryPoolBackend, register  # noqa: E402
from celery_pool.host.cpus import usable_cpus  # noqa: E402
from guards import descendants  # noqa: E402
from support import DEADLINE, Background, Gate, run_script  # noqa: E402


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register()
    with parallel_config("celery_pool", n_jobs=2):
        yield
    del joblib.parallel.BACKENDS["celery_pool"]


def test_the_backend_is_ours_and_works_in_other_processes():
    pids = Parallel()(delayed(tasks.pid)(i) for i in range(50))
    assert os.getpid() not in pids
    assert 1 <= len(set(pids)) <= 2
    assert isinstance(joblib.parallel.get_active_backend()[0], CeleryPoolBackend)


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_results(return_as, batch_size):
    results = Parallel(return_as=return_as, batch_size=batch_size)(
        delayed(tasks.same)(i) for i in range(300)
    )
    results = list(results)
    if return_as == "generator_unordered":
        results.sort()
    assert results == list(range(300))


def test_by_name_and_by_parallel_backend():
    results = Parallel(n_jobs=2, backend="celery_pool")(delayed(abs)(-i) for i in range(5))
    assert results == list(range(5))
    with joblib.parallel_backend("celery_pool", n_jobs=2):
        assert Parallel()([delayed(tasks.same)(1)]) == [1]
    assert Parallel()([]) == []


def test_lambdas_and_closures():
    factor = 3
    results = Parallel()(delayed(lambda x: x * factor)(i) for i in range(20))
    assert results == [3 * i for i in range(20)]

    class Local:
        value = 7

    assert Parallel()(delayed(getattr)(Local(), "value") for _ in range(3)) == [7] * 3


def test_options_reach_the_pool(start_method):
    with parallel_config("celery_pool", n_jobs=2, context=start_method, timeout=0.2):
        assert Parallel()(delayed(tasks.same)(i) for i in range(5)) == list(range(5))
        with pytest.raises(TimeLimitExceeded):
            Parallel()(delayed(time.sleep)(60) for _ in range(2))


def remember(value: Any) -> None:
    tasks.remembered = value  # type: ignore[attr-defined]


def remembered(_: Any) -> Any:
    return tasks.remembered  # type: ignore[attr-defined]


def test_parallel_takes_the_pools_options():
    options: Any = {"initializer": remember, "initargs": (7,)}
    work = [delayed(remembered)(i) for i in range(20)]
    assert Parallel(n_jobs=2, backend="celery_pool", **options)(work) == [7] * 20
    with parallel_config("celery_pool", n_jobs=2, initializer=remember, initargs=(8,)):
        assert Parallel()(work) == [8] * 20
        assert Parallel(**options)(work) == [7] * 20
        with Parallel(**options) as parallel:
            with pytest.raises(ZeroDivisionError):
                parallel([delayed(divmod)(1, 0)])
            assert parallel(work) == [7] * 20  # by new workers
    with pytest.raises(TypeError, match="no_such_option"):
        Parallel(n_jobs=2, no_such_option=1)(work)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_template_initializer(method):
    with parallel_config("celery_pool", n_jobs=2, context=method):
        results = Parallel(template_initializer=remember, template_initargs=[3])(
            delayed(remembered)(i) for i in range(4)
        )
    assert results == [3] * 4


# ---- n_jobs


def test_n_jobs():
    backend = CeleryPoolBackend(nesting_level=0)
    cpus = joblib.cpu_count()
    assert backend.effective_n_jobs(-1) == cpus
    assert backend.effective_n_jobs(-1000) == 1
    assert backend.effective_n_jobs(None) == 1
    assert backend.effective_n_jobs(5) == 5
    with pytest.raises(ValueError, match="n_jobs"):
        backend.effective_n_jobs(0)
    with parallel_config("celery_pool", n_jobs=None):
        assert joblib.effective_n_jobs() == cpus  # whose default is -1, always
        assert Parallel().n_jobs == 1
    assert Parallel(n_jobs=-1)(delayed(tasks.same)(i) for i in range(10)) == list(range(10))


def test_one_job_needs_no_worker():
    assert Parallel(n_jobs=1)(delayed(tasks.pid)(i) for i in range(3)) == [os.getpid()] * 3


def test_a_managed_parallel_keeps_its_workers():
    with Parallel(n_jobs=2) as parallel:
        first = set(parallel(delayed(tasks.pid)(i) for i in range(20)))
        second = set(parallel(delayed(tasks.pid)(i) for i in range(20)))
        assert first & second
        with pytest.raises(ValueError, match="x"):
            parallel(delayed(tasks.fail)(ValueError, "x") for _ in range(2))
        # the backend is in order again, with other workers
        third = set(parallel(delayed(tasks.pid)(i) for i in range(20)))
        assert not third & first


def test_in_a_thread():
    def call() -> list[int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a thread
            with parallel_config("celery_pool", n_jobs=2):
                return Parallel()(delayed(tasks.same)(i) for i in range(10))

    callers = [Background(call) for _ in range(2)]
    assert [caller.result(2 * DEADLINE) for caller in callers] == [list(range(10))] * 2


def in_background(call: Callable[[], Any]) -> Any:
    """For what must not wait for ever."""

    def quiet() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a thread
            return call()

    return Background(quiet).result(DEADLINE)


# ---- nested


def nested(i: int) -> tuple[int, list[int]]:
    backend, _ = joblib.parallel.get_active_backend()
    inner = Parallel(n_jobs=2)(delayed(pow)(j, 2) for j in range(i))
    return type(backend).__name__, inner


def test_nested_calls_use_threads():
    results = Parallel()(delayed(nested)(i) for i in range(4))
    assert [inner for _, inner in results] == [[j * j for j in range(i)] for i in range(4)]
    assert {name for name, _ in results} == {"ThreadingBackend"}


def nested_by_name(i: int) -> list[int]:
    register()
    return Parallel(n_jobs=2, backend="celery_pool")(delayed(pow)(j, 2) for j in range(i))


def test_nested_by_name():
    assert Parallel()(delayed(nested_by_name)(i) for i in range(3)) == [[], [0], [0, 1]]


NESTED_LOOP = """
import sys
from joblib import Parallel, delayed
from celery_pool.ext.joblib import register

from joblib_targets import nested_loop

if __name__ == "__main__":
    register()
    outer, inner = sys.argv[1:]
    results = Parallel(n_jobs=2, backend=outer)(delayed(nested_loop)(inner) for _ in range(2))
    assert results == [[0, 1]] * 2, results
"""


@pytest.mark.parametrize(
    "outer, inner",
    [
        ("celery_pool", "celery_pool"),
        ("celery_pool", "loky"),
        ("celery_pool", "multiprocessing"),
        ("loky", "celery_pool"),
        ("multiprocessing", "celery_pool"),
    ],
)
def test_nested_loop(outer, inner):
    """As joblib's own test of that name; in a program of its own, as loky keeps processes."""
    done = run_script(NESTED_LOOP, outer, inner)
    assert done.returncode == 0, done.stderr
    assert "does not leave" not in done.stderr


AFTER_LOKY = """
from joblib import Parallel, delayed
from celery_pool.ext.joblib import register

def square(i):
    return i * i

def inner(_):
    return Parallel(n_jobs=2, backend="loky")(delayed(square)(i) for i in range(3))

if __name__ == "__main__":
    register()
    assert inner(0) == [0, 1, 4]
    with Parallel(n_jobs=2, backend="celery_pool") as parallel:
        assert parallel(delayed(inner)(i) for i in range(2)) == [[0, 1, 4]] * 2
    assert inner(0) == [0, 1, 4]
"""


def test_loky_in_a_task_of_a_program_that_has_used_loky():
    """loky keeps an executor, of which a forked worker has no threads."""
    done = run_script(AFTER_LOKY)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


LOKY = """
from joblib.externals.loky.backend import get_context
from celery_pool import TaskPool
import tasks

def with_loky():
    from joblib import Parallel, delayed
    return Parallel(n_jobs=2, backend="loky")(delayed(pow)(i, 2) for i in range(2))

if __name__ == "__main__":
    import cloudpickle
    with TaskPool(1, context="fork") as p:
        assert p.apply_async(with_loky).get(20) == [0, 1]
    assert p.statistics().exits == {"stopped": 1}, p.statistics()
    with TaskPool(2, context=get_context("loky")) as p:
        assert [p.apply_async(tasks.same, (i,)).get(20) for i in range(3)] == [0, 1, 2]
        assert p.apply_async(tasks.start_method).get(20) == "loky"
"""


def test_loky_in_a_task_and_lokys_context():
    """A worker in which a task has used loky leaves without being killed; loky's processes,
    which know no close(), can be templates."""
    done = run_script(LOKY)
    assert done.returncode == 0, done.stderr


def test_below_threads_there_are_no_workers():
    def inner(i: int) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            [value] = Parallel(n_jobs=2, backend="celery_pool")([delayed(tasks.pid)()])
        assert value == os.getpid()
        assert "cannot be nested below threads" in str([w.message for w in caught])
        return value

    with parallel_config("threading", n_jobs=2):
        assert Parallel()(delayed(inner)(i) for i in range(1)) == [os.getpid()]


# ---- ends


def test_an_exception_with_its_remote_traceback(tmp_path):
    gate = Gate(tmp_path)
    start = time.monotonic()
    with pytest.raises(ValueError, match="deep") as caught:
        Parallel(batch_size=1)(
            [delayed(tasks.pass_gate)(gate.path), delayed(tasks.fail_deeply)("deep")]
        )
    assert "the_innermost_function" in str(caught.value.__cause__)
    assert time.monotonic() - start < DEADLINE  # what stood at the gate was killed


def test_a_lost_worker():
    with pytest.raises(WorkerLostError):
        Parallel(batch_size=1)([delayed(tasks.die)(signal.SIGKILL), *[delayed(abs)(1)] * 5])
    assert Parallel()(delayed(tasks.same)(i) for i in range(5)) == list(range(5))


def test_timeout():
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.1, batch_size=1)(delayed(time.sleep)(60) for _ in range(2))


def test_what_cannot_be_pickled():
    with pytest.raises(PicklingError, match="the task to send") as caught:
        Parallel()([delayed(tasks.same)(threading.Lock())])
    assert isinstance(caught.value.__cause__, TypeError)
    assert Parallel()([delayed(tasks.same)(1)]) == [1]


@pytest.mark.parametrize(
    "options, argument, error",
    [
        ({}, threading.Lock(), PicklingError),
        ({"max_bytes": 100_000}, bytes(200_000), PayloadTooLarge),
    ],
    ids=["pickle", "max_bytes"],
)
def test_what_cannot_be_sent_later(options, argument, error):
    """joblib submits all but the first tasks in the background thread."""

    def call() -> None:
        arguments = [*range(100), argument, *range(100)]
        Parallel(n_jobs=2, backend="celery_pool", batch_size=1, pre_dispatch=2, **options)(
            delayed(tasks.same)(value) for value in arguments
        )

    with pytest.raises(error):
        in_background(call)


def test_a_generator_that_is_left_early(tmp_path):
    before = set(descendants())
    gate = Gate(tmp_path)
    work = [delayed(tasks.same)(1), *[delayed(tasks.pass_gate)(gate.path)] * 3]
    generator = Parallel(return_as="generator", batch_size=1)(work)
    assert next(generator) == 1
    with pytest.warns(UserWarning, match="tasks"):
        generator.close()
    assert not {pid: text for pid, text in descendants().items() if pid not in before}


def test_ctrl_c():
    done = run_script(
        """
import _thread, threading, time
import joblib
from celery_pool.ext.joblib import register
register()
threading.Timer(0.5, _thread.interrupt_main).start()
try:
    with joblib.parallel_config("celery_pool", n_jobs=2):
        joblib.Parallel()(joblib.delayed(time.sleep)(60) for _ in range(4))
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""


def test_functions_of_main_without_a_guard():
    """As scripts for joblib are often written."""
    done = run_script(
        """
import joblib
from celery_pool.ext.joblib import register

def double(x):
    return 2 * x

register(make_default=True)
assert joblib.Parallel().n_jobs == 1
print(joblib.Parallel(n_jobs=2)(joblib.delayed(double)(i) for i in range(5)))
"""
    )
    assert done.stderr == ""
    assert done.stdout == "[0, 2, 4, 6, 8]\n"


# ---- what runs in the workers


def thread_settings() -> dict[str, Any]:
    return {name: os.environ.get(name) for name in CeleryPoolBackend.MAX_NUM_THREADS_VARS}


def test_inner_max_num_threads():
    with parallel_config("celery_pool", n_jobs=2, inner_max_num_threads=3):
        settings = Parallel()(delayed(thread_settings)() for _ in range(2))
    assert all(set(s.values()) == {"3"} for s in settings)


def test_by_default_the_cpus_are_shared_out():
    settings = Parallel(n_jobs=2)(delayed(thread_settings)() for _ in range(2))
    for name, value in settings[0].items():
        assert value == os.environ.get(name, str(max(1, usable_cpus() // 2)))


def test_batches_grow():
    sizes = []

    class Watched(CeleryPoolBackend):
        def submit(self, func, callback):
            sizes.append(len(func))
            return super().submit(func, callback)

    joblib.register_parallel_backend("watched", Watched)
    try:
        with parallel_config("watched", n_jobs=2):
            assert Parallel()(delayed(abs)(i) for i in range(2000)) == list(range(2000))
    finally:
        del joblib.parallel.BACKENDS["watched"]
    assert sizes[0] == 1
    assert max(sizes) > 10
    assert sum(sizes) == 2000


def test_scikit_learn():
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    x, y = make_classification(n_samples=200, random_state=0)
    grid = {"C": [0.01, 0.1, 1.0, 10.0]}
    with parallel_config("celery_pool", n_jobs=2):
        parallel = GridSearchCV(LogisticRegression(), grid, cv=3).fit(x, y)
    with parallel_config("sequential"):
        sequential = GridSearchCV(LogisticRegression(), grid, cv=3).fit(x, y)
    assert parallel.best_params_ == sequential.best_params_
    scores = "mean_test_score"
    assert list(parallel.cv_results_[scores]) == list(sequential.cv_results_[scores])
