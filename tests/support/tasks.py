"""Functions that the tests run in workers."""

from __future__ import annotations

import os
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NoReturn

from celery_pool import ExceptionInfo

GATE_PATIENCE = 30.0

initialized: list[Any] = []


# ---- plain ones ----


def same(value: Any) -> Any:
    return value


def nothing(*args: object, **kwargs: object) -> None:
    pass


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def pid(*args: object) -> int:
    return os.getpid()


def append(path: str, text: str) -> None:
    """One write, which the kernel keeps whole."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


def append_line(path: str) -> None:
    append(path, "line\n")


def digest(data: bytes) -> tuple[int, int]:
    return len(data), zlib.crc32(data)


def zeros(count: int) -> bytes:
    return bytes(count)


def pattern(count: int) -> bytes:
    """`count` bytes that differ from place to place."""
    block = bytes(range(251))
    return (block * (count // len(block) + 1))[:count]


class Point:
    """A class, its methods and its instances as targets."""

    def __init__(self, x: int, y: int = 0) -> None:
        self.x = x
        self.y = y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def scaled(self, factor: int) -> Point:
        return Point(self.x * factor, self.y * factor)

    def __call__(self, value: int) -> int:
        return self.x + value

    @classmethod
    def diagonal(cls, x: int) -> Point:
        return cls(x, x)

    @staticmethod
    def zero() -> int:
        return 0


# ---- that wait ----


def crowded(folder: str, seconds: float = 0.02) -> int:
    """How many of these run at this time, each marked by a file."""
    mark = Path(folder, f"{os.getpid()}-{time.monotonic_ns()}")
    mark.touch()
    running = len(os.listdir(folder))
    time.sleep(seconds)
    mark.unlink()
    return running


def pass_gate(path: str, value: Any = None) -> Any:
    """Returns `value` once the gate is open."""
    Path(f"{path}.at.{os.getpid()}").touch()
    wait_for_file(path)
    return value


def wait_for_file(path: str) -> None:
    end = time.monotonic() + GATE_PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.001)


def pass_gate_if_odd(path_and_value: tuple[str, int]) -> int:
    path, value = path_and_value
    return int(pass_gate(path, value)) if value % 2 else value


def same_or_fail(path: str | None, text: str | None) -> None:
    """Waits at a gate, or fails at once."""
    if path is not None:
        pass_gate(path)
    if text is not None:
        raise ValueError(text)


def pass_gate_and_fail(path: str, text: str) -> None:
    pass_gate(path)
    raise ValueError(text)


def unless_exists(path: str, function: Callable[..., Any], *args: Any) -> Any:
    return None if os.path.exists(path) else function(*args)


# ---- that fail ----


def fail(kind: type[BaseException], *args: Any) -> NoReturn:
    raise kind(*args)


def fail_if_exists(path: Path) -> None:
    """An initializer."""
    if path.exists():
        raise ValueError("there it is")


class InterruptsUnpickling:
    """Its unpickling raises KeyboardInterrupt."""

    def __reduce__(self) -> Any:
        return fail, (KeyboardInterrupt,)


def fail_deeply(text: str) -> None:
    def the_innermost_function() -> None:
        raise ValueError(text)

    the_innermost_function()


class TwoArguments(Exception):
    """Pickles, but does not unpickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Stubborn(Exception):
    """Does not pickle."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("Stubborn stays where it is")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def return_exception_info(text: str) -> ExceptionInfo:
    try:
        raise KeyError(text)
    except KeyError:
        return ExceptionInfo()


def return_stubborn_exception_info() -> ExceptionInfo:
    return ExceptionInfo(Stubborn("inside"))


def unpicklable() -> Any:
    return lambda: None


class OnlyHere:
    """Unpickles nowhere but in the process that pickled it."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (os.getpid(), self.error)


def _arrive(origin: int, error: type[BaseException]) -> OnlyHere:
    if os.getpid() != origin:
        raise error("cannot be moved")
    return OnlyHere(error)


def only_here(error: type[BaseException] = ValueError) -> OnlyHere:
    return OnlyHere(error)


class Trap(Exception):
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return "snap"

    def __reduce__(self) -> tuple[Any, ...]:
        return append, (self.path, "unpickled")


def fail_with_a_trap(path: str) -> NoReturn:
    raise Trap(path)


class RaisesWhenPickled:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error("no pickling")


def raises_when_pickled(error: type[BaseException]) -> RaisesWhenPickled:
    return RaisesWhenPickled(error)


def invert(value: float) -> float:
    return 1 / value


def stop_iteration(value: object) -> NoReturn:
    raise StopIteration(value)


# ---- that end their worker ----


def die_at(value: int, when: int) -> int:
    if value == when:
        die(signal.SIGKILL)
    return value


def die_if_zero(value: int) -> int:
    if not value:
        die()
    return value


def square_or_die(what: str, value: int) -> int:
    if what == "die":
        die()
    return value * value


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(GATE_PATIENCE)


def leave(status: int) -> NoReturn:
    os._exit(status)


def pass_gate_and_die(path: str) -> None:
    pass_gate(path)
    die()


def fork_and_return() -> tuple[int, int]:
    """The child, too, comes back into the worker's loop."""
    here = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return here, os.getpid()


def fork_and_leave_a_child(path: str) -> int:
    """The child outlives the worker; returns its pid."""
    child = os.fork()
    if child == 0:
        try:
            wait_for_file(path)
        finally:
            os._exit(0)
    return child


# ---- initializers ----


def fail_while(flag: str) -> None:
    if os.path.exists(flag):
        raise ConnectionError("the database is down")


def initialize(*args: Any) -> None:
    initialized.append(args)


def what_was_initialized() -> list[Any]:
    return initialized


def initialized_with(_: object) -> list[Any]:
    return what_was_initialized()


def initialize_slowly(gate: str) -> None:
    pass_gate(gate)


def initialize_with(path: str, text: str) -> None:
    append(path, f"{os.getpid()}")
    raise ValueError(text)


def initialize_once(path: str) -> None:
    """The first process to come here succeeds, the others fail."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise ValueError("one too many") from None


def descriptors() -> list[str]:
    """What the worker has open."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return found


def modules_loaded(*names: str) -> list[str]:
    return [name for name in names if name in sys.modules]


# ---- processes of their own ----


def square(value: int) -> int:
    return value * value


def start_method() -> str:
    import multiprocessing

    return multiprocessing.get_start_method()


def uses_multiprocessing(method: str) -> list[int]:
    import multiprocessing

    with multiprocessing.get_context(method).Pool(1) as pool:
        squares = pool.map(square, [1, 2, 3])
        pool.close()
        pool.join()
    return squares


def pool_in_a_task(method: str) -> list[int]:
    from celery_pool import TaskPool

    with TaskPool(2, context=method) as pool:
        return [pool.apply_async(same, (i,)).get(GATE_PATIENCE) for i in range(3)]


def mp_pool_in_a_task(method: str) -> list[int]:
    from celery_pool import Pool

    with Pool(1, context=method) as pool:
        return pool.map(square, [1, 2, 3])


def signal_state() -> tuple[list[int], str]:
    """(blocked signals, what SIGTERM does)"""
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    return blocked, signal.Handlers(signal.getsignal(signal.SIGTERM)).name  # type: ignore[arg-type]


def all_of(*args):
    return args
