"""What workers of the tests of large payloads run: tasks on arrays, and the faults."""

from __future__ import annotations

import os
import pickle
import resource
import time
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import tasks

kept: list[Any] = []


def zeros_in_turn(path: str, turn: int, count: int) -> bytes:
    """Waits until the file has so many bytes."""
    while os.stat(path).st_size < turn:
        time.sleep(0.0005)
    return bytes(count)


def array(size: int, seed: int = 1) -> np.ndarray:
    """`size` bytes that differ from seed to seed and from place to place."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def checksum(*values: Any) -> list[int]:
    return [zlib.crc32(memoryview(np.ascontiguousarray(v)).cast("B")) for v in values]


def look_at(data: Any) -> tuple[tuple[int, int], bool]:
    view = memoryview(data)
    return tasks.digest(bytes(view)), view.readonly


def bare_buffer(size: int, locked: bool) -> pickle.PickleBuffer:
    data = tasks.pattern(size)
    return pickle.PickleBuffer(data if locked else bytearray(data))


def arrays(count: int, size: int) -> list[np.ndarray]:
    return [array(size, seed) for seed in range(count)]


def keyed(*, data: np.ndarray, factor: int = 2) -> np.ndarray:
    return data * factor


class Adder:
    """A target with state."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __call__(self, other: np.ndarray) -> np.ndarray:
        return self.data + other


class BadData(Exception):
    """Carries what it complains about."""


def raise_with(size: int) -> NoReturn:
    raise BadData("bad", array(size))


def overwrite(data: np.ndarray) -> int:
    before = int(data.sum())
    data[:] = 7
    return before


def overwrite_and_return(data: np.ndarray) -> np.ndarray:
    data += 1
    return data


def keep(data: np.ndarray) -> None:
    kept.append(data)


def kept_checksums() -> list[int]:
    return checksum(*kept)


def drop_kept() -> None:
    kept.clear()


def keep_and_return(size: int, seed: int) -> np.ndarray:
    kept.append(array(size, seed))
    return kept[-1]


def is_shared(value: Any) -> bool:
    """Whether the array's memory lies in a segment of a pool."""
    address = value.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(n, 16) for n in line.split()[0].split("-"))
        if first <= address < last:
            return "memfd:celery_pool" in line
    raise AssertionError(f"no mapping at {address:#x}")


def shared_here(value: Any) -> tuple[bool, bool]:
    """Of the argument, as the worker sees it; and whether it can be written."""
    return is_shared(value), value.flags.writeable


def segment_mappings() -> int:
    """Mappings of this process that belong to segments of pools."""
    return Path("/proc/self/maps").read_text().count("memfd:celery_pool")


class SlowToRead:
    """Waits at a gate where it is unpickled."""

    def __init__(self, gate: str, data: Any) -> None:
        self.state = gate, data

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_slowly, (self.state[0], pickle.PickleBuffer(self.state[1]), os.getpid())


def _read_slowly(gate: str, data: Any, origin: int) -> Any:
    if os.getpid() != origin:
        tasks.pass_gate(gate)
    return data


class SlowToWrite:
    """Waits at a gate where it is pickled; its buffer has left the pickle then."""

    def __init__(self, gate: str, data: Any) -> None:
        self.state = gate, data

    def __reduce__(self) -> tuple[Any, ...]:
        return _second, (pickle.PickleBuffer(self.state[1]), _Gate(self.state[0]))


class _Gate:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        tasks.pass_gate(self.path)
        return int, ()


def _second(data: Any, nothing: int) -> Any:
    return data


def write_slowly(gate: str, size: int) -> SlowToWrite:
    return SlowToWrite(gate, array(size))


def compute_at_gate(gate: str, data: np.ndarray) -> list[int]:
    tasks.pass_gate(gate)
    return checksum(data)


def pass_gate_with(gate: str, data: np.ndarray) -> np.ndarray:
    tasks.pass_gate(gate)
    return data


def sleep_with(data: np.ndarray, seconds: float) -> None:
    time.sleep(seconds)


def sum_at_gate(gate: str, data: np.ndarray) -> int:
    total = int(data.sum())
    tasks.pass_gate(gate)
    return total


def fork_with(data: np.ndarray, gate: str, report: str) -> int:
    """The child looks at the argument when the gate opens; the task ends before."""
    child = os.fork()
    if child == 0:
        try:
            tasks.wait_for_file(gate)
            Path(report + ".new").write_text(str(checksum(data)[0]))
            os.rename(report + ".new", report)
        finally:
            os._exit(0)
    return child


def fork_and_wait(data: np.ndarray) -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]


def limit(name: str, beyond: int) -> None:
    """Initializer: this worker may use `beyond` more of it than it does now."""
    which = getattr(resource, name)
    if name == "RLIMIT_AS":
        beyond += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    elif name == "RLIMIT_NOFILE":
        beyond += max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(which, (beyond, beyond))


def use_up_descriptors() -> int:
    """As many as there are; returns how many were left."""
    count = 0
    while True:
        try:
            kept.append(os.dup(0))
        except OSError:
            return count
        count += 1
