"""What the workloads share: parameters, a running contender, counting, percentiles, CPU time."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import gc
import itertools
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from contenders.base import Contender, Task
from task_bodies import noop

WARM_UP_SECONDS = 0.1


@dataclass(frozen=True)
class Parameters:
    """One measurement. Each workload uses the fields it has a use for."""

    processes: int = 2
    in_flight: int | None = None  # most tasks submitted and not finished; None: unbounded
    tasks: int | None = None  # None: as many as fill `duration`
    duration: float = 1.0  # seconds, about, that one measurement lasts
    context: str = "fork"  # start method
    payload: int = 0  # bytes
    payload_kind: str = "bytes"  # or "ndarray"
    direction: str = "both"  # of a payload: "there", "back", "both"
    arrivals: int = 0  # a second
    busy: bool = False  # the submitter computes between them
    long_tasks: int = 0  # that hold a worker for the whole measurement
    submitters: int = 1  # threads
    by: str = "submit"  # by what tasks are given, or "imap_unordered" or "asyncio"
    iterations: int = 0  # of task_bodies.burn
    kills: float = 0.0  # workers killed a second
    recycle: int = 0  # tasks after which a worker is replaced; 0: never
    company: int = 0  # CPUs on which something else computes meanwhile
    row: str = ""  # of workloads/facades.py
    rounds: int | None = None  # of this case; None: as many as of the others
    only: tuple[str, ...] = ()  # contenders that this is meant for; empty: all


@dataclass(frozen=True)
class Measure:
    """What a figure of a workload is."""

    unit: str
    better: str  # "higher" or "lower"


@dataclass(frozen=True)
class Workload:
    """One topology: its cases, and the function that measures one of them."""

    name: str
    title: str  # one sentence
    measures: dict[str, Measure]
    cases: Callable[
        [Parameters, bool], dict[str, Parameters]
    ]  # (defaults, quick?) -> by name; quick: may be empty
    run: Callable[[Contender, Parameters], dict[str, float]]
    prepare: Callable[[Parameters], Parameters] = lambda parameters: (
        parameters
    )  # once a run, e.g. to calibrate


@contextlib.contextmanager
def running(contender: Contender, parameters: Parameters, *, warm: bool = True) -> Iterator[float]:
    """Starts the contender and closes it in the end; gives the rate of its warm-up."""
    contender.start(parameters.processes, parameters.in_flight, parameters.context)
    try:
        yield warm_up(contender) if warm else 0.0
    finally:
        contender.close()


def warm_up(contender: Contender) -> float:
    """Runs ever larger batches of no-op tasks until one lasts; returns its tasks a second."""
    batch = 64
    while True:
        seconds = saturate(contender, batch)
        if seconds >= WARM_UP_SECONDS:
            gc.collect()
            return batch / seconds
        batch *= 4


def saturate(
    contender: Contender,
    tasks: int,
    function: Callable[..., Any] = noop,
    args: tuple[Any, ...] = (),
) -> float:
    """Seconds from the first submission to the last callback."""
    callback, done = counted(tasks)
    started = time.perf_counter()
    contender.submit_many(Task(function, args, callback), tasks)
    contender.wait_all(done)
    return time.perf_counter() - started


def counted(expected: int) -> tuple[Callable[..., None], threading.Event]:
    """A callback that counts (in any number of threads), and the event that its last call sets."""
    ticket = itertools.count(1)
    done = threading.Event()

    def callback(outcome: Any = None, meta: Any = None) -> None:
        if next(ticket) == expected:
            done.set()

    return callback, done


class Tally:
    """The outcomes so far: one entry each, as appending and counting need no lock."""

    def __init__(self, entries: list[object]) -> None:
        self._entries = entries
        self._expected = 0

    def count(self) -> int:
        """How many."""
        return len(self._entries)

    def all_of(self, expected: int) -> Tally:
        """Itself, to wait for so many."""
        self._expected = expected
        return self

    def wait(self) -> None:
        """Waits for the number expected."""
        while len(self._entries) < self._expected:
            time.sleep(0.0005)


def tally() -> tuple[Callable[..., None], Tally]:
    """A callback that counts where the number is not known beforehand, and what it counted."""
    entries: list[object] = []
    append = entries.append

    def callback(outcome: Any = None, meta: Any = None) -> None:
        append(None)

    return callback, Tally(entries)


def task_count(parameters: Parameters, rate: float) -> int:
    """The given number of tasks, or as many as fill the duration at that rate."""
    return parameters.tasks or max(100, int(rate * parameters.duration))


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and p99.9 in microseconds."""
    cuts = statistics.quantiles(seconds, n=1000, method="inclusive")
    return {name: cuts[index] * 1e6 for name, index in (("p50", 499), ("p99", 989), ("p99.9", 998))}


LATENCIES = {name: Measure("µs", "lower") for name in ("p50", "p99", "p99.9")}


class CpuMeter:
    """CPU seconds of this process and of all its descendants, the dead included.

    Descendants are read by the kernel's clock of a process, in nanoseconds; what one of them used
    that died meanwhile stands with its parent.
    """

    parent: float  # seconds, all threads
    descendants: float

    def __enter__(self) -> CpuMeter:
        self._descendants = _descendants_cpu()
        self._parent = time.process_time()  # last: reading the others is not to be counted
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.parent = time.process_time() - self._parent
        self.descendants = _descendants_cpu() - self._descendants


def _descendants_cpu() -> float:
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = reaped.ru_utime + reaped.ru_stime
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += _cpu_clock(process.pid) or times.user + times.system
            total += times.children_user + times.children_system
    return total


_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


def _cpu_clock(pid: int) -> float | None:
    clock = ctypes.c_int()
    if not hasattr(_libc, "clock_getcpuclockid") or _libc.clock_getcpuclockid(
        pid, ctypes.byref(clock)
    ):
        return None
    try:
        return time.clock_gettime(clock.value)
    except OSError:  # it has just ended
        return None


def private_bytes() -> int:
    """Memory of this process that no other shares by name: neither files nor shared segments."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


@contextlib.contextmanager
def frozen(pids: list[int]) -> Iterator[Callable[[], None]]:
    """Holds processes by SIGSTOP until the function it gives is called, or until the block ends."""
    processes = [psutil.Process(pid) for pid in pids]

    def thaw() -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    for process in processes:
        process.suspend()
    while any(process.status() != psutil.STATUS_STOPPED for process in processes):
        time.sleep(0.001)
    try:
        yield thaw
    finally:
        thaw()


@contextlib.contextmanager
def company(cpus: int) -> Iterator[None]:
    """Other processes, one on each of so many CPUs, compute meanwhile."""
    with contextlib.ExitStack() as ends:
        for cpu in sorted(os.sched_getaffinity(0))[:cpus]:
            code = (
                f"import os; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\nwhile True: pass"
            )
            process = ends.enter_context(
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            )
            ends.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield
