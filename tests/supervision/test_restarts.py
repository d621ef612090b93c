"""The arithmetic of restarts, by a clock of our own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from celery_pool.supervision.restarts import (
    FIRST_DELAY,
    JITTER,
    KILLED_STARTS,
    LONGEST_DELAY,
    LONGEST_OUTAGE_DELAY,
    OUTAGE_DELAY,
    Restarts,
)


def made(most: int = 10**9, window: float = 60, retries: int | None = None) -> Restarts:
    return Restarts(most, window, retries)


def is_delay(seconds: float, wanted: float) -> bool:
    return wanted * 0.999 <= seconds <= wanted * (1 + JITTER) * 1.001


def outage(restarts: Restarts, seconds: float, begin: float = 0.0) -> list[float]:
    """The delays while each start fails at once, for so long."""
    delays, now = [], begin
    while now < begin + seconds:
        restarts.failed(now, asked=now)
        delays.append(restarts.next_start - now)
        now = restarts.next_start
    return delays


# ---- crashes ----


def test_nothing_has_died():
    assert made().next_start == 0
    assert not made().probing


def test_the_first_crash_is_made_good_at_once():
    restarts = made()
    assert restarts.crashed(100.0, 0.0, 1) is False
    assert restarts.next_start <= 100.0


def test_delays_double_up_to_the_longest():
    restarts = made()
    restarts.crashed(0.0, 0.0, 1)
    for second in range(1, 40):
        restarts.crashed(float(second), second - 0.5, 1)
        wanted = min(FIRST_DELAY * 2 ** (second - 1), LONGEST_DELAY)
        assert is_delay(restarts.next_start - second, wanted)


def test_very_many_in_a_row_do_not_overflow():
    restarts = made()
    for second in range(5000):
        restarts.crashed(float(second), second - 0.5, 1)
    assert is_delay(restarts.next_start - 4999, LONGEST_DELAY)


def test_many_that_crash_together_count_once_in_the_row():
    restarts = made()
    for n in range(32):
        restarts.crashed(100 + n / 1000, 0.0, 32)
    assert restarts.next_start <= 100.0


def test_two_that_crash_in_turns_are_held_back():
    """Each of them is asked for before the other one dies."""
    restarts = made()
    for n in range(30):
        restarts.crashed(float(n), n - 1.5, 2)
    assert is_delay(restarts.next_start - 28, LONGEST_DELAY)


def test_a_worker_that_has_worked_ends_the_row():
    restarts = made()
    for second in range(10):
        restarts.crashed(float(second), second - 0.5, 1)
    restarts.worked()
    before = restarts.next_start
    restarts.crashed(20.0, 19.0, 1)
    assert restarts.next_start == before  # no new delay: the first one in a row
    restarts.crashed(30.0, 29.0, 1)
    assert is_delay(restarts.next_start - 30, FIRST_DELAY)


@pytest.mark.parametrize("workers", [1, 2, 32])
@pytest.mark.parametrize("most", [1, 10])
def test_the_budget_is_each_workers(most, workers):
    restarts = made(most, 60)
    found = [restarts.crashed(n / 100, 0.0, workers) for n in range(most * workers + 2)]
    assert found == [False] * most * workers + [True, True]


def test_what_lies_before_the_window_is_forgotten():
    restarts = made(2, 10)
    assert not any(restarts.crashed(now, 0.0, 1) for now in (0.0, 5.0, 10.5, 15.5, 21.0))
    assert restarts.crashed(26.5, 0.0, 1) is False
    assert restarts.crashed(27.0, 0.0, 1) is True


# ---- killed while they start for the first time ----


def test_few_rounds_of_killed_starts_are_made_good():
    restarts = made()
    found = [restarts.killed_at_start(float(n), n - 0.5, 1) for n in range(KILLED_STARTS + 1)]
    assert found == [False] * KILLED_STARTS + [True]


def test_a_worker_that_is_ready_ends_the_row_of_killed_starts():
    restarts = made()
    for n in range(10 * KILLED_STARTS):
        assert not restarts.killed_at_start(float(n), n - 0.5, 1)
        restarts.succeeded()


# ---- outages ----


def test_a_failed_start_is_tried_again_by_one_worker():
    restarts = made()
    assert restarts.failed(5.0, asked=4.0) is False
    assert restarts.probing
    assert is_delay(restarts.next_start - 5, FIRST_DELAY)
    restarts.succeeded()
    assert not restarts.probing
    assert restarts.next_start == 0


def test_the_delay_of_an_outage_grows_to_a_second():
    delays = outage(made(), 60)
    for n, delay in enumerate(delays):
        assert is_delay(delay, min(FIRST_DELAY * 2**n, OUTAGE_DELAY))


def test_the_end_of_a_long_outage_is_seen_within_a_fraction_of_it():
    restarts = made()
    delays = outage(restarts, 7200)
    assert max(delays) <= LONGEST_OUTAGE_DELAY * (1 + JITTER)
    assert is_delay(delays[-1], LONGEST_OUTAGE_DELAY)
    now = 0.0
    for delay in delays:
        assert delay <= max(OUTAGE_DELAY, now / 60) * (1 + JITTER)
        now += delay


def test_delays_differ_between_pools():
    assert len({tuple(outage(made(), 10)) for _ in range(5)}) == 5


def test_starts_that_fail_together_count_once():
    restarts = made(retries=1)
    assert not any(restarts.failed(10 + n / 1000, asked=1.0) for n in range(32))
    assert restarts.failed(20.0, asked=19.0) is True


def test_retries():
    restarts = made(retries=3)
    assert [restarts.failed(float(n), n - 0.5) for n in range(4)] == [False] * 3 + [True]
    restarts.succeeded()
    assert restarts.failed(10.0, 9.0) is False
    assert made(retries=0).failed(0.0, 0.0) is True


def test_for_ever():
    restarts = made()
    assert not any(restarts.failed(n * 30.0, n * 30.0) for n in range(10_000))


def test_each_outage_begins_afresh():
    restarts = made()
    first = outage(restarts, 600)
    restarts.succeeded()
    again = outage(restarts, 600, begin=1000)
    for one, other in pairwise([len(first), len(again)]):
        assert abs(one - other) < 0.1 * one
