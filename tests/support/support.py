"""What several tests of the pool need: gates, threads with a deadline, recorders."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import celery_pool
from celery_pool import ExceptionInfo, TaskPool
from guards import wait_until

DEADLINE = 10.0

START_METHODS = [
    method
    for method in ("fork", "forkserver", "spawn")
    if method in multiprocessing.get_all_start_methods()
]

#: What pickling a local function raises: up to Python 3.13 the first, since then the second.
CANNOT_PICKLE = (AttributeError, pickle.PicklingError)

#: Warnings are errors, but for one of Python 3.15: a process with threads forks, as many tests do.
PYTHON = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]


def named(value: object) -> str:
    """The name of a parameter, the same in every process: without addresses."""
    return re.sub(r" at 0x\w+", "", str(value))


class Gate:
    """Tasks wait in front of it (`tasks.pass_gate`) until the test opens it."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self._directory = directory
        self.path = str(directory / name)

    def open(self) -> None:
        Path(self.path).touch()

    def close(self) -> None:
        """Once nobody waits any more: it stops the next ones."""
        os.unlink(self.path)
        for path in self.waiting_files():
            path.unlink()

    def waiting(self) -> list[int]:
        """Pids of the workers whose tasks have come to the gate."""
        return [int(p.name.rpartition(".")[2]) for p in self.waiting_files()]

    def waiting_files(self) -> list[Path]:
        return list(self._directory.glob(os.path.basename(self.path) + ".at.*"))

    def await_tasks(self, count: int = 1) -> list[int]:
        wait_until(lambda: len(self.waiting()) >= count, DEADLINE, f"{count} tasks at the gate")
        return self.waiting()


class Background:
    """A call in a thread of its own, so that a call that hangs fails the test."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.entered = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

        def body() -> None:
            self.entered.set()
            try:
                self._value = function(*args, **kwargs)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()
        assert self.entered.wait(DEADLINE)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, deadline: float = DEADLINE) -> Any:
        __tracebackhide__ = True
        self._thread.join(deadline)
        if self._thread.is_alive():
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = f"{frame.f_code.co_qualname}:{frame.f_lineno}" if frame else "?"
            raise AssertionError(f"did not return within {deadline} s; it is in {where}")
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._value


class Calls:
    """A callback that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def values(self) -> list[Any]:
        return [call[0] for call in self.calls]

    def wait(self, count: int = 1) -> list[tuple[Any, ...]]:
        wait_until(lambda: len(self.calls) >= count, DEADLINE, f"{count} calls")
        return self.calls


class Log(logging.Handler):
    """A logger for a pool whose callbacks raise; keeps text only.

    pytest would keep the records, and with their tracebacks the pool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logger = logging.Logger("log")
        self.logger.addHandler(self)
        self.kinds: list[type[BaseException]] = []
        self.messages: list[str] = []
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0]:
            self.kinds.append(record.exc_info[0])
        self.messages.append(record.getMessage())
        self.text += self.format(record) + "\n"


class Recorder(TaskPool):
    """Overrides both hooks and calls super."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.returned: list[tuple[Any, ...]] = []
        self.readied: list[tuple[Any, ...]] = []

    def on_return(self, ret_val: Any, tid: Any, callbacks: Any, errbacks: Any, meta: Any) -> None:
        self.returned.append((ret_val, tid, callbacks, errbacks, meta))
        super().on_return(ret_val, tid, callbacks, errbacks, meta)

    def on_ready(self, ret_value: Any, callbacks: Any, errbacks: Any, meta: Any) -> None:
        self.readied.append((ret_value, callbacks, errbacks, meta))
        super().on_ready(ret_value, callbacks, errbacks, meta)


def collected(pool: TaskPool, count: int) -> None:
    """Waits until `count` jobs wait for their callbacks (for callbacks_in="caller")."""
    wait_until(
        lambda: pool.statistics().waiting_callbacks == count, DEADLINE, f"{count} jobs collected"
    )


def at_rest(pool: TaskPool) -> bool:
    statistics = pool.statistics()
    return statistics.in_flight == 0 and statistics.waiting_callbacks == 0


def run_script(text: str, *args: str, timeout: float = 40.0) -> subprocess.CompletedProcess[str]:
    """The text, run as a program."""
    return run_program("-c", text, *args, timeout=timeout)


def run_program(*args: str | Path, timeout: float = 40.0) -> subprocess.CompletedProcess[str]:
    """Another interpreter, warnings as errors, which can import `celery_pool` and `tasks`."""
    return subprocess.run(
        [*PYTHON, *args],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def script_environment() -> dict[str, str]:
    """In which scripts find the package, these modules and conftest."""
    here = Path(__file__).parent
    places = [Path(celery_pool.__file__).parents[1], here, here.parent]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}


def open_terminal() -> tuple[int, int]:
    """Both ends of a pseudo-terminal."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"there are no pseudo-terminals here: {error}")


def is_gone(pid: int) -> bool:
    """No such process, or only its status is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def failure(info: Any) -> BaseException:
    assert isinstance(info, ExceptionInfo)
    return info.exception


def took(start: float, at_most: float) -> float:
    """The seconds since `start`, which are not too many."""
    __tracebackhide__ = True
    seconds = time.monotonic() - start
    assert in_time(seconds, at_most), f"took {seconds:.3f} s"
    return seconds


def in_time(seconds: float, at_most: float) -> bool:
    """At most so many; on a machine that is busy just now, as much more as twenty processes take
    that do nothing."""
    if seconds < at_most:
        return True
    begin = time.monotonic()
    for _ in range(4):
        subprocess.run([sys.executable, "-ISc", ""], check=True)
    return seconds < at_most + 5 * (time.monotonic() - begin)


def stays(condition: Callable[[], bool], seconds: float = 0.15) -> bool:
    """Whether it holds all the time; for what must not happen."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not condition():
            return False
        time.sleep(0.005)
    return condition()
