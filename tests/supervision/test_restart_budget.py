"""The arithmetic that holds crash loops back, by a clock of our own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from celery_pool.supervision.restarts import FIRST_DELAY, LONGEST_DELAY, RestartBudget


def test_nothing_has_died():
    assert RestartBudget(3, 60).next_start == 0


def test_the_first_death_is_replaced_at_once():
    budget = RestartBudget(3, 60)
    assert budget.died(100.0, healthy=False) is False
    assert budget.next_start <= 100.0


def test_delays_double_up_to_the_longest():
    budget = RestartBudget(10**6, 60)
    budget.died(0.0, healthy=False)
    delays = []
    for second in range(1, 40):
        budget.died(float(second), healthy=False)
        delays.append(budget.next_start - second)
    assert delays[0] == pytest.approx(FIRST_DELAY)
    for one, next_one in pairwise(delays):
        assert next_one == pytest.approx(min(2 * one, LONGEST_DELAY))
    assert delays[-1] == pytest.approx(LONGEST_DELAY)


def test_very_many_in_a_row_do_not_overflow():
    budget = RestartBudget(10**9, 1.0)
    for second in range(5000):
        budget.died(float(second), healthy=False)
    assert budget.next_start == pytest.approx(4999 + LONGEST_DELAY)


def test_a_worker_that_has_worked_ends_the_row():
    budget = RestartBudget(10**6, 60)
    for _ in range(10):
        budget.died(0.0, healthy=False)
    assert budget.died(1.0, healthy=True) is False
    before = budget.next_start
    budget.died(2.0, healthy=False)
    assert budget.next_start == before  # no new delay: the first one in a row
    budget.died(3.0, healthy=False)
    assert budget.next_start == pytest.approx(3.0 + FIRST_DELAY)


def test_healthy_ones_cost_nothing():
    budget = RestartBudget(1, 60)
    assert not any(budget.died(0.0, healthy=True) for _ in range(1000))


@pytest.mark.parametrize("most", [1, 2, 10])
def test_the_budget(most):
    budget = RestartBudget(most, 60)
    found = [budget.died(float(i), healthy=False) for i in range(most + 2)]
    assert found == [False] * most + [True, True]


def test_what_lies_before_the_window_is_forgotten():
    budget = RestartBudget(2, 10)
    assert not any(budget.died(now, healthy=False) for now in (0.0, 5.0, 10.5, 15.5, 21.0))
    assert budget.died(26.5, healthy=False) is False
    assert budget.died(27.0, healthy=False) is True


def test_healthy_ones_do_not_fill_the_window_up_again():
    budget = RestartBudget(2, 10)
    found = [budget.died(float(i) / 10, healthy=i % 2 == 0) for i in range(6)]
    assert found == [False, False, False, False, False, True]
