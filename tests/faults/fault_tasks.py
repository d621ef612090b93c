"""What the workers of the fault table run: code that comes to the place of a fault."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tasks
from celery_pool import current_worker


def reach(gate: str, fault: str) -> None:
    """The worker is at the place: it does the fault itself, or waits for the test to do it."""
    faulthandler.disable()  # no noise: the fault is wanted
    Path(f"{gate}.at.{os.getpid()}").touch()
    if fault.startswith("exit "):
        os._exit(int(fault.removeprefix("exit ")))
    if fault == "exception":
        raise LookupError("fault")
    if fault == "sys.exit":
        sys.exit(3)
    if fault == "sys.exit in a thread":
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        return
    tasks.wait_for_file(gate)


def reach_once(gate: str, fault: str) -> None:
    """The first process to come here once the test has armed the place."""
    if not os.path.exists(gate + ".armed"):
        return
    try:
        os.close(os.open(gate + ".taken", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    reach(gate, fault)


def reach_by_a_thread(gate: str, fault: str) -> None:
    """An initializer: a thread that waits until the test says that this worker is at the place."""

    def body() -> None:
        while not os.path.exists(f"{gate}.for.{os.getpid()}"):
            time.sleep(0.001)
        reach(gate, fault)

    threading.Thread(target=body, daemon=True).start()


class Reaches:
    """Comes to the place where it is unpickled in another process than it was made in."""

    def __init__(self, gate: str, fault: str) -> None:
        self.state = gate, fault, os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, self.state


def _arrive(gate: str, fault: str, origin: int) -> str:
    if os.getpid() != origin:
        reach(gate, fault)
    return "arrived"


class ReachesWhenPickled:
    def __init__(self, gate: str, fault: str) -> None:
        self.gate = gate
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        reach(self.gate, self.fault)
        return str, ("arrived",)


def mark(log: str, number: int) -> int:
    tasks.append(log, str(number))
    return number


def mark_and_take(log: str, number: int, arrived: str) -> str:
    mark(log, number)
    return arrived


def in_python(log: str, number: int, gate: str, fault: str) -> str:
    mark(log, number)
    reach(gate, fault)
    return "arrived"


def in_python_later(log: str, number: int, gate: str, fault: str, begun: str) -> str:
    tasks.pass_gate(begun)
    return in_python(log, number, gate, fault)


def retired(log: str, number: int, gate: str, fault: str) -> str:
    retire()
    return in_python(log, number, gate, fault)


def retire() -> None:
    worker = current_worker()
    assert worker is not None
    worker.retire()


def in_c_with_the_gil(log: str, number: int, gate: str, seconds: float) -> str:
    mark(log, number)
    faulthandler.disable()
    Path(f"{gate}.at.{os.getpid()}").touch()
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "arrived"


def when_pickled(log: str, number: int, gate: str, fault: str) -> ReachesWhenPickled:
    mark(log, number)
    return ReachesWhenPickled(gate, fault)


def with_a_child(log: str, number: int, gate: str, fault: str, release: str) -> str:
    """The child outlives the worker and holds all it had open."""
    mark(log, number)
    tasks.fork_and_leave_a_child(release)
    reach(gate, fault)
    return "arrived"


def size_of(log: str, number: int, data: bytes) -> int:
    mark(log, number)
    return len(data)


def large(log: str, number: int, gate: str, size: int) -> bytes:
    mark(log, number)
    data = bytes(size)
    Path(f"{gate}.at.{os.getpid()}").touch()
    return data


def mark_and_fill(log: str, number: int, size: int) -> bytes:
    mark(log, number)
    return bytes(size)


def sleep_and_mark(log: str, number: int, seconds: float) -> int:
    time.sleep(seconds)
    return mark(log, number)
