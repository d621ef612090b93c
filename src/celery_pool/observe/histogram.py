"""Durations as the core counts them: log-linear buckets, four an octave."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

BUCKETS = 192  # CP_BUCKETS of layout.h
_EXACT = 4  # buckets of 1 ns before the first octave


def bucket_of(ns: int) -> int:
    """The bucket that a duration is counted in, as status.h has it."""
    if ns < _EXACT:
        return ns
    octave = ns.bit_length() - 1
    return min(BUCKETS - 1, (octave - 1) * 4 + (ns >> (octave - 2) & 3))


def bounds(bucket: int) -> tuple[int, int]:
    """Of a bucket, in ns: from (included) and to (excluded)."""
    if bucket < _EXACT:
        return bucket, bucket + 1
    octave, quarter = bucket // 4 + 1, bucket % 4
    width = 1 << (octave - 2)
    return (4 + quarter) * width, (5 + quarter) * width


@dataclass(frozen=True)
class Histogram:
    """How often durations of which length have occurred. Immutable, safe in any thread.

    A quantile is at most 12.5 % off; the sum, and so the mean, is exact.
    """

    buckets: tuple[int, ...] = (0,) * BUCKETS  #: see :func:`bounds`
    total: float = 0.0  #: seconds, of all together

    @classmethod
    def of(cls, durations: Iterable[float]) -> Histogram:
        """Of durations in seconds."""
        buckets = [0] * BUCKETS
        total = 0.0
        for duration in durations:
            buckets[bucket_of(max(0, round(duration * 1e9)))] += 1
            total += duration
        return cls(tuple(buckets), total)

    @property
    def count(self) -> int:
        """How many durations."""
        return sum(self.buckets)

    @property
    def mean(self) -> float:
        """Seconds; NaN without any."""
        count = self.count
        return self.total / count if count else float("nan")

    def quantile(self, q: float) -> float:
        """Seconds that a part `q` (0 to 1) of the durations does not exceed; NaN without any.

        :raises ValueError: `q` is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is from 0 to 1, not {q!r}")
        count = self.count
        if not count:
            return float("nan")
        rank = min(count - 1, int(q * count))
        low, high = bounds(bisect_right(list(accumulate(self.buckets)), rank))
        return (low + high - 1) / 2e9

    def merge(self, *others: Histogram) -> Histogram:
        """This one and others together."""
        all_of_them = (self, *others)
        return Histogram(
            tuple(map(sum, zip(*(one.buckets for one in all_of_them), strict=True))),
            sum(one.total for one in all_of_them),
        )

    def minus(self, earlier: Histogram) -> Histogram:
        """What has come since an earlier one of the same function."""
        return Histogram(
            tuple(
                max(0, now - then) for now, then in zip(self.buckets, earlier.buckets, strict=True)
            ),
            max(0.0, self.total - earlier.total),
        )

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(seconds, how many durations are shorter) for each bucket up to the last one in use."""
        below = 0
        last = max((i for i, number in enumerate(self.buckets) if number), default=-1)
        for bucket in range(last + 1):
            below += self.buckets[bucket]
            yield bounds(bucket)[1] / 1e9, below
