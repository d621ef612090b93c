"""What the workers of the soak run. Each body first leaves its mark on the board that all
processes share, and takes the seat of its worker there."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable

from celery_pool import current_worker
from soak_board import Board

PATTERN = bytes(range(251)) * 84_000  # over 20 MB

board_at = functools.cache(Board)

loaded_in: int | None = None  # the process that has run load()
hoarded: list[bytes] = []


class Leave(Exception):
    """A worker whose task raises it leaves."""


class OutOfTime(Exception):
    """The soft limit."""


# ---- what the pool calls ----


def load(path: str) -> None:
    """The template's initializer."""
    global loaded_in
    fail_while_down(path)
    loaded_in = os.getpid()


def begin(path: str) -> None:
    """A worker's initializer."""
    fail_while_down(path)
    board = board_at(path)
    if loaded_in in (None, os.getpid()):
        board.complain(f"the template has not been initialized: {loaded_in}")
    worker = current_worker()
    identity = multiprocessing.current_process()._identity  # type: ignore[attr-defined]
    if worker is None or identity != (worker.index + 1,):
        board.complain(f"{worker} is process {identity} for multiprocessing")
    if board.enter_trap():
        end = time.monotonic() + 10
        while board.in_trap() and time.monotonic() < end:
            time.sleep(0.001)


def end(path: str, pid: int, exitcode: int) -> None:
    """A worker's finalizer."""
    if pid != os.getpid() or exitcode != 0:
        board_at(path).complain(f"finalizer({pid}, {exitcode}) in {os.getpid()}")


def fail_while_down(path: str) -> None:
    if board_at(path).down:
        raise ConnectionError("the database is down")


# ---- bodies: of a size and the argument's data, they make the result's ----


def sleep(microseconds: int, data: bytes) -> bytes:
    time.sleep(microseconds / 1e6)
    return b""


def work(microseconds: int, data: bytes) -> bytes:
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return b""


def fail(size: int, data: bytes) -> bytes:
    raise ValueError(size)


def take(size: int, data: bytes) -> bytes:
    assert data == PATTERN[:size], "the argument has been damaged"
    return b""


def give(size: int, data: bytes) -> bytes:
    return PATTERN[:size]


def leave(size: int, data: bytes) -> bytes:
    raise Leave


def retire(size: int, data: bytes) -> bytes:
    worker = current_worker()
    assert worker is not None
    worker.retire()
    return b""


def leave_a_child(microseconds: int, data: bytes) -> bytes:
    if os.fork() == 0:
        try:
            time.sleep(microseconds / 1e6)
        finally:
            os._exit(0)  # also of a SIGINT to the group
    return b""


def hoard(size: int, data: bytes) -> bytes:
    """Memory that the worker keeps."""
    hoarded.append(PATTERN[:size] * 2)
    return b""


def burst(size: int, data: bytes) -> bytes:
    """Memory that is too much for the worker, for a moment."""
    memory = PATTERN[:size] * 24
    time.sleep(0.05)
    return memory[:0]


def exit_at_once(code: int, data: bytes) -> bytes:
    os._exit(code)


def die(signum: int, data: bytes) -> bytes:
    os.kill(os.getpid(), signum)
    time.sleep(60)
    return b""


def tidy_up(microseconds: int, data: bytes) -> bytes:
    """Takes the soft limit for what it is."""
    try:
        time.sleep(microseconds / 1e6)
    except OutOfTime:
        time.sleep(0.001)
    return b""


def endure(times: int, data: bytes) -> bytes:
    """Is told so often that its time is up."""
    told = 0
    end = time.monotonic() + 10
    while told < times:
        try:
            time.sleep(0.05)
        except OutOfTime:
            told += 1
        assert time.monotonic() < end, f"it was told {told} times"
    return b""


def turn_deaf(microseconds: int, data: bytes) -> bytes:
    """Has taken the soft limit's signal away."""
    handler = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        time.sleep(microseconds / 1e6)
    finally:
        signal.signal(signal.SIGUSR1, handler)
    return b""


def be_stubborn(microseconds: int, data: bytes) -> bytes:
    """Does not end when it is asked to."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        time.sleep(microseconds / 1e6)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return b""


Body = Callable[[int, bytes], bytes]


def run(path: str, number: int, body: Body, size: int, data: bytes = b"") -> tuple[int, bytes]:
    board = board_at(path)
    worker = current_worker()
    assert worker is not None
    board.begin(number)
    try:
        try:
            board.sit(worker.index, number)
            return number, body(size, data)
        finally:
            board.rise(worker.index)
    except BaseException:
        board.rise(worker.index)  # the soft limit may have come before
        raise
