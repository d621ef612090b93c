"""What is measured, one file a topology, in the order in which it is run."""

import importlib

from measure import Workload

NAMES = (
    "saturated",
    "limited",
    "round_trip",
    "bookkeeping",
    "in_flight",
    "paced",
    "idle",
    "many_submitters",
    "asyncio_program",
    "facades",
    "cpu_bound",
    "skewed",
    "many_workers",
    "startup",
    "payload",
    "kills",
    "replacement",
    "recycling",
    "instructions",
)


def load(name: str) -> Workload:
    """The workload of that name."""
    workload: Workload = importlib.import_module(f"workloads.{name}").WORKLOAD
    assert workload.name == name
    return workload
