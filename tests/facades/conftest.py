"""Fixtures of the facades' tests."""

from event_loops import first_uvloop, run
from executors import executor
from pools import mp_pool

__all__ = ["executor", "first_uvloop", "mp_pool", "run"]
