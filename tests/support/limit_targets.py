"""Tasks that run too long, each in its own way, for the tests of limits and shutdown."""

from __future__ import annotations

import collections
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import tasks
from celery_pool import SoftTimeLimitExceeded

# ---- without end ----


def loop_in_python() -> NoReturn:
    while True:
        pass


def sleep_long() -> None:
    time.sleep(600)


def loop_in_c() -> None:
    """Holds the GIL and never looks at signals."""
    collections.deque(itertools.repeat(0), maxlen=0)


def huge_power() -> int:
    return 7 ** (10**9)


def regex_backtracks() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def with_thread() -> None:
    thread = threading.Thread(target=loop_in_python, daemon=True)
    thread.start()
    thread.join()


ENDLESS: dict[str, Callable[[], object]] = {
    "python": loop_in_python,
    "sleep": sleep_long,
    "c": loop_in_c,
    "power": huge_power,
    "regex": regex_backtracks,
}


def endless(kind: str, mark: str | None = None, deaf: bool = False) -> None:
    """One of them; `deaf`: ignores SIGTERM. `mark`: a file made first, with our pid."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mark is not None:
        mark_here(mark)
    ENDLESS[kind]()


def mark_here(path: str) -> None:
    """The file appears with its content, our pid."""
    Path(f"{path}.{os.getpid()}").write_text(str(os.getpid()))
    os.rename(f"{path}.{os.getpid()}", path)


def with_child(path: str, deaf: bool) -> None:
    """A child of its own; its pid goes to the file."""
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path + ".new").write_text(str(child.pid))
    os.rename(path + ".new", path)
    time.sleep(600)


# ---- and soft limits ----


def catches() -> tuple[str, float]:
    start = time.monotonic()
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded as error:
        return str(error), time.monotonic() - start
    return "", 0.0


def catches_in_a_loop() -> bool:
    try:
        while True:
            pass
    except SoftTimeLimitExceeded:
        return True


def catches_beside_a_thread() -> tuple[bool, bool]:
    """(raised in the main thread, the thread saw none of it)"""
    undisturbed = []
    stop = threading.Event()

    def body() -> None:
        undisturbed.append(stop.wait(30))

    thread = threading.Thread(target=body)
    thread.start()
    try:
        time.sleep(30)
        raised = False
    except SoftTimeLimitExceeded:
        raised = threading.current_thread() is threading.main_thread()
    stop.set()
    thread.join()
    return raised, undisturbed == [True]


def swallows(times: int) -> list[float]:
    """When it was raised, until it was `times` times."""
    start = time.monotonic()
    seen: list[float] = []
    while len(seen) < times:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            seen.append(time.monotonic() - start)
    return seen


def handler_of(signum: int) -> bool:
    return callable(signal.getsignal(signum))


# ---- exactly as long as the limit ----


def recorded(path: str, number: int, seconds: float, soft: bool) -> tuple[int, bool]:
    """Marks its start and its end; (number, whether the soft limit was raised)."""
    raised = False
    try:
        tasks.append(path, f"start {number}")
        if seconds:
            spin_until(time.perf_counter() + seconds)
    except SoftTimeLimitExceeded:
        if not soft:
            raise
        raised = True
    return number, raised


def spin_until(end: float) -> None:
    time.sleep(max(0.0, end - time.perf_counter() - 0.0005))
    while time.perf_counter() < end:
        pass
