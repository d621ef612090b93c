"""Histograms of durations: what a quantile of one is worth."""

from __future__ import annotations

import math
import random

import pytest

from celery_pool import Histogram
from celery_pool.observe.histogram import BUCKETS, bounds, bucket_of

MOST_OFF = 0.13


@pytest.mark.parametrize("shape", ["log-normal", "uniform", "two heaps", "nanoseconds"])
def test_quantiles_of_a_million(shape):
    draw = random.Random(shape)
    durations = {
        "log-normal": lambda: draw.lognormvariate(-9, 2),
        "uniform": lambda: draw.uniform(0, 1e-3),
        "two heaps": lambda: draw.choice((20e-6, 3.0)) * draw.uniform(0.9, 1.1),
        "nanoseconds": lambda: draw.randrange(1, 200) / 1e9,
    }[shape]
    known = sorted(durations() for _ in range(1_000_000))
    histogram = Histogram.of(known)
    assert histogram.count == len(known)
    assert math.isclose(histogram.mean, math.fsum(known) / len(known))
    for q in (0.001, 0.1, 0.25, 0.49, 0.9, 0.99, 0.999, 1.0):
        exact = known[min(len(known) - 1, int(q * len(known)))]
        assert abs(histogram.quantile(q) - exact) <= MOST_OFF * exact + 1e-9


def test_buckets_leave_no_gap():
    for bucket in range(BUCKETS - 1):
        low, high = bounds(bucket)
        assert bucket_of(low) == bucket_of(high - 1) == bucket
        assert bounds(bucket + 1)[0] == high
    assert bucket_of(2**63) == BUCKETS - 1


def test_merge_and_minus():
    first, second = Histogram.of([1e-6] * 10), Histogram.of([1e-3] * 30)
    both = first.merge(second)
    assert both.count == 40
    assert both.quantile(0.5) == second.quantile(0.5)
    assert both.minus(first).buckets == second.buckets
    assert math.isclose(both.minus(first).total, second.total)
    assert first.merge().buckets == first.buckets


def test_cumulative_ends_with_all_of_them():
    histogram = Histogram.of([1e-6, 2e-6, 5e-3])
    steps = list(histogram.cumulative())
    assert steps[-1][1] == 3
    assert [below for _, below in steps] == sorted(below for _, below in steps)
    assert steps[-1][0] >= 5e-3


def test_without_any():
    histogram = Histogram()
    assert histogram.count == 0
    assert math.isnan(histogram.quantile(0.5))
    assert math.isnan(histogram.mean)
    assert list(histogram.cumulative()) == []


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_is_from_0_to_1(q):
    with pytest.raises(ValueError, match="from 0 to 1"):
        Histogram.of([1.0]).quantile(q)
