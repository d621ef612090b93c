"""The window: what may be submitted now, and what comes out next. Without a pool, but for jobs."""

from __future__ import annotations

import random
import weakref

import pytest

import tasks
from celery_pool import PoolClosed, TaskPool
from celery_pool.taskpool import Results, Window
from support import DEADLINE, Gate

BOTH = pytest.mark.parametrize("ordered", [True, False])


def taken(window):
    found = []
    while window.ready:
        found.append(window.take())
    return found


# ---- places ----


def test_in_order_what_came_early_is_kept_back():
    window = Window(3)
    assert [window.put() for _ in range(3)] == [0, 1, 2]
    assert window.room == 0 and len(window) == 3
    window.arrive("c", 2)
    window.arrive("b", 1)
    assert taken(window) == [] and window.room == 0
    window.arrive("a", 0)
    assert taken(window) == ["a", "b", "c"]
    assert window.room == 3 and len(window) == 0 and window.count == 3


def test_as_completed_what_came_first_comes_first():
    window = Window(3, ordered=False)
    keys = [window.put() for _ in range(3)]
    window.arrive("c", keys[2])
    assert taken(window) == ["c"] and window.room == 1
    window.put()
    window.arrive("a", keys[0])
    window.arrive("b", keys[1])
    assert taken(window) == ["a", "b"] and len(window) == 1


@BOTH
def test_none_is_an_outcome(ordered):
    window = Window(ordered=ordered)
    window.arrive(None, window.put())
    assert window.ready and window.take() is None


@BOTH
def test_without_a_bound_there_is_always_room(ordered):
    window = Window(ordered=ordered)
    assert window.size is None
    for key in range(1000):
        assert window.room > 1 << 60
        assert window.put() == key
    for key in range(1000):
        window.arrive(key, key)
    assert taken(window) == list(range(1000))


@BOTH
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 100, None])
def test_any_order_of_events(ordered, size):
    """Beside a model: lists of what is pending, and of what came."""
    rng = random.Random(size)
    window = Window(size, ordered)
    pending, came, expected, found = [], {}, [], []
    for _ in range(3000):
        deed = rng.randrange(3)
        inside = window.count - len(found)
        assert len(window) == inside
        if deed == 0 and window.room:
            assert size is None or window.room == size - inside
            pending.append(window.put())
        elif deed == 1 and pending:
            key = pending.pop(rng.randrange(len(pending)))
            window.arrive(("outcome", key), key)
            came[key] = ("outcome", key)
            if not ordered:
                expected.append(came[key])
        elif deed == 2:
            if ordered and len(found) in came:
                expected.append(came[len(found)])
            assert window.ready == (len(found) < len(expected))
            if window.ready:
                found.append(window.take())
                assert found[-1] == expected[len(found) - 1]
    assert len(found) > 300


@BOTH
def test_what_is_not_there_is_refused(ordered):
    window = Window(4, ordered)
    with pytest.raises(LookupError):
        window.take()
    with pytest.raises(ValueError, match="no key"):
        window.arrive("x", 0)
    window.arrive("x", window.put())
    with pytest.raises(ValueError, match="ended already"):
        window.arrive("y", 0)
    assert window.take() == "x"
    with pytest.raises(LookupError):
        window.take()
    with pytest.raises(ValueError, match=r"no key|ended already"):
        window.arrive("y", 0)


@BOTH
def test_the_last_place_can_be_withdrawn(ordered):
    window = Window(2, ordered)
    window.put()
    window.put()
    window.withdraw()
    assert window.room == 1 and window.count == 1
    window.arrive("x", 0)
    with pytest.raises(ValueError, match="no such place"):
        window.withdraw()
    assert taken(window) == ["x"]
    with pytest.raises(ValueError, match="no such place"):
        window.withdraw()


@BOTH
def test_nothing_is_put_in_behind_the_end(ordered):
    window = Window(ordered=ordered)
    window.put()
    window.end(LookupError("input"))
    assert window.over and str(window.error) == "input"
    with pytest.raises(ValueError, match="over"):
        window.put()
    window.arrive(1, 0)
    assert taken(window) == [1]


@BOTH
def test_who_waits_for_room_is_told_once(ordered):
    window = Window(2, ordered)
    told = []
    for key in (window.put(), window.put()):
        window.arrive(key, key)
    window.on_room = lambda: told.append(window.room)
    window.take()
    window.take()
    assert told == [1] and window.on_room is None


@BOTH
def test_what_is_inside_goes_with_it(ordered):
    class Value:
        pass

    window = Window(ordered=ordered)
    value = Value()
    for _ in range(40):
        window.arrive(value, window.put())
    gone = weakref.ref(value)
    window.take()
    del value
    assert gone() is not None
    del window
    assert gone() is None


# ---- jobs ----


@BOTH
def test_jobs_end_by_themselves(pool, tmp_path, ordered):
    started = pool(None, processes=2)
    gate = Gate(tmp_path)
    window = Window(ordered=ordered)
    late = started.apply_async(tasks.pass_gate, (gate.path, 1))
    early = started.apply_async(tasks.same, (2,))
    early.wait(DEADLINE)
    after = started.apply_async(tasks.same, (3,))
    for job in (late, early, after):
        window.put(job)
    after.wait(DEADLINE)
    assert taken(window) == ([] if ordered else [early, after])
    if ordered:
        assert window.pending() == [late]
    gate.open()
    late.wait(DEADLINE)
    assert taken(window) == ([late, early, after] if ordered else [late])


def test_a_job_with_callbacks_is_none_for_a_window_as_completed(pool, tmp_path):
    started = pool(None, processes=2)
    gate = Gate(tmp_path)
    job = started.apply_async(tasks.pass_gate, (gate.path,), callbacks=print)
    with pytest.raises(ValueError, match="callbacks"):
        Window(ordered=False).put(job)
    with pytest.raises(ValueError, match="not both"):
        started._feed(Window(ordered=False), abs, iter([1]), callbacks=print)
    gate.open()
    job.wait(DEADLINE)


# ---- feed and Results ----


def values(pool, function, items, *, size=None, ordered=True, chunked=False, star=False):
    window = Window(size, ordered)
    results = Results(pool, window, chunked=chunked)
    found = []
    while pool._feed(window, function, items, chunked=chunked, star=star, most=7):
        while not window.room:
            found.append(results.next(DEADLINE))
    pool._end_feed(window)
    return found + list(results)


@BOTH
@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize("limit", [None, 2])
def test_values_of_a_feed(pool, ordered, size, limit):
    p = pool(limit, processes=2)
    found = values(p, tasks.square, iter(range(100)), size=size, ordered=ordered)
    expected = [i * i for i in range(100)]
    assert found == expected if ordered else sorted(found) == expected


@BOTH
def test_chunks_and_arguments(pool, ordered):
    started = pool(None, processes=2)
    chunked = values(
        started, tasks.square, iter([[1, 2], (3,), range(4, 6)]), chunked=True, ordered=ordered
    )
    assert sorted(chunked) == [1, 4, 9, 16, 25]
    starred = values(started, pow, iter([(2, 3), [2, 4]]), star=True, ordered=ordered)
    assert sorted(starred) == [8, 16]
    both = values(
        started, pow, iter([[(2, 3)], [(2, 4), [2, 5]]]), chunked=True, star=True, ordered=ordered
    )
    assert sorted(both) == [8, 16, 32]


@BOTH
def test_what_cannot_be_sent_is_an_outcome(pool, ordered):
    started = pool(None, processes=2)
    window = Window(ordered=ordered)
    results = Results(started, window)
    assert not started._feed(window, tasks.same, iter([1, lambda: None, 2]))
    started._end_feed(window)
    found, errors = [], []
    for _ in range(3):
        try:
            found.append(results.next(DEADLINE))
        except Exception as error:
            errors.append(error)
    assert sorted(found) == [1, 2] and len(errors) == 1 and "lambda" in str(errors[0])
    with pytest.raises(StopIteration):
        results.next(DEADLINE)


@BOTH
def test_an_input_that_raises_leaves_the_window_whole(pool, ordered):
    started = pool(None, processes=2)

    def items():
        yield 1
        raise LookupError("input")

    window = Window(ordered=ordered)
    results = Results(started, window)
    with pytest.raises(LookupError, match="input"):
        started._feed(window, tasks.same, items())
    assert window.count == 1
    started._end_feed(window, LookupError("behind"))
    assert results.next(DEADLINE) == 1
    with pytest.raises(LookupError, match="behind"):
        results.next(DEADLINE)
    with pytest.raises(StopIteration):
        results.next(DEADLINE)


@BOTH
def test_a_pool_that_takes_no_more_leaves_the_window_whole(ordered):
    pool = TaskPool(None, processes=1)
    pool.run()
    window = Window(ordered=ordered)
    assert pool._feed(window, tasks.same, iter([1, 2, 3]), most=2)
    pool.close()
    with pytest.raises(PoolClosed):
        pool._feed(window, tasks.same, iter([3]))
    assert window.count == 2
    pool._end_feed(window)
    assert sorted(Results(pool, window)) == [1, 2]
    pool.join()


@BOTH
def test_gather_keeps_the_first_error_and_all_values(pool, ordered):
    started = pool(None, processes=2)
    window = Window(ordered=ordered)
    results = Results(started, window, chunked=True)
    assert not started._feed(window, tasks.invert, iter([[4], [2, 0], [1]]), chunked=True)
    found = []
    assert not results.gather(found, 0.01), "there may come more"
    started._end_feed(window)
    assert results.gather(found, DEADLINE)
    assert sorted(found) == [0.25, 1.0]
    assert isinstance(results.error, ZeroDivisionError)


@BOTH
def test_jobs_that_end_when_their_window_is_gone(pool, tmp_path, ordered):
    started = pool(None, processes=2)
    gate = Gate(tmp_path)
    window = Window(ordered=ordered)
    assert not started._feed(window, tasks.pass_gate, iter([gate.path] * 5))
    del window
    gate.open()
    started.close()
    started.join()


def test_a_subclass_is_iterated_as_results_are(pool):
    p = pool(None, processes=1)

    @Results.iterated_alike
    class Own(Results):
        pass

    window = Window()
    results = Own(p, window)
    p._feed(window, tasks.same, iter(range(5)))
    p._end_feed(window)
    assert next(results) == 0 and results.next(DEADLINE) == 1
    assert list(results) == [2, 3, 4]
    with pytest.raises(TypeError, match="no subclass"):
        Results.iterated_alike(list)
