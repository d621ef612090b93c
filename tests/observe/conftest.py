from __future__ import annotations

import pytest

from watched import Watched


@pytest.fixture
def watched():
    """Makes programs with a pool, `watched(method, **options)`, and ends them after the test."""
    made = []

    def make(method="fork", **options):
        made.append(Watched(method, **options))
        return made[-1]

    yield make
    while made:
        made.pop().end()
