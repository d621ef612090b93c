"""What the tests of the core share."""

from __future__ import annotations

from typing import Any

import pytest

from bench import Bench


@pytest.fixture
def bench():
    made = []

    def make(*args: Any, **kwargs: Any) -> Bench:
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    while made:
        made.pop().stop()
