"""`pickler=`: what the module pickle cannot send."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import pytest

import tasks
from celery_pool import TaskPool
from support import DEADLINE, Calls


class Marked:
    """A pickler that is an object, not a module, and tells that it was used."""

    def dumps(self, value, protocol=None, buffer_callback=None):
        return b"marked" + pickle.dumps(value, protocol)

    def loads(self, data, buffers=()):
        assert bytes(data[:6]) == b"marked"
        return pickle.loads(data[6:])


def test_closures_and_lambdas(pool, start_method):
    p = pool(4, processes=2, pickler=cloudpickle)
    factor = 7

    def times(x):
        return factor * x

    results = [p.apply_async(times, (i,)) for i in range(100)]
    results += [p.apply_async(lambda x, y=1: x + y, (i,), {"y": 2}) for i in range(100)]
    assert [r.get(DEADLINE) for r in results] == [7 * i for i in range(100)] + list(range(2, 102))


def test_a_changed_closure_is_sent_anew(pool):
    p = pool(4, processes=1, pickler=cloudpickle)
    state = {"n": 0}

    def current():
        return state["n"]

    for n in range(5):
        state["n"] = n
        assert p.apply_async(current).get(DEADLINE) == n


def test_results_are_pickled_by_it(pool):
    p = pool(4, processes=2, pickler=cloudpickle)

    def maker(n):
        return lambda x: x + n

    made = p.apply_async(maker, (3,))
    assert made.get(DEADLINE)(4) == 7


def test_an_object(pool, start_method):
    p = pool(4, processes=2, pickler=Marked())
    calls = Calls()
    size = 300_000
    p.apply_async(tasks.same, (b"x" * size,), callbacks=calls)
    assert p.apply_async(tasks.same, ([1, 2],)).get(DEADLINE) == [1, 2]
    p.close()
    p.join()
    assert calls.values == [b"x" * size]


def test_without_it_a_lambda_is_refused_at_the_call(pool):
    p = pool(4, processes=2)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        p.apply_async(lambda: 1)
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1


@pytest.mark.parametrize("wrong", [1, "cloudpickle", object()])
def test_what_is_no_pickler(wrong):
    with pytest.raises(TypeError, match="dumps and loads"):
        TaskPool(2, pickler=wrong)


def test_functions_of_main(tmp_path, start_method):
    """As in a notebook: defined after the pool was started."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import cloudpickle
            from celery_pool import TaskPool

            if __name__ == "__main__":
                with TaskPool(2, context={start_method!r}, pickler=cloudpickle) as pool:
                    def late(x):
                        return x * 2
                    print(pool.apply_async(late, (21,)).get(30))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == ("42\n", "")
