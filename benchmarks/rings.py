"""The core's rings, driven by a bare loop in C (rings.c), for contenders and benchmarks.

    python benchmarks/rings.py [--lanes 1 2 4 8 15] [--depth 1 16] [--in-flight 256]

sends messages from one process to so many others, as fast as it can: spread (depth 1), or up to so
many in a row to the same. What a processor writes another has to fetch, so that it pays to send
several at a time: on a machine with a processor for each. A task as the pool sends it moves its two
lines (frame and completion) there and back, and the lines of both tails once a batch.

Compiled when it is needed, from the headers of the checkout: neither they nor the C file come with
an installed package.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import mmap
import os
import shlex
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("rings.c")
HEADERS = SOURCE.parent.parent / "src"
ROUNDS = 5
FLAGS = ("-std=gnu11", "-O3", "-fvisibility=hidden", "-shared", "-fPIC")


@functools.cache
def library() -> ctypes.CDLL:
    """Compiles and loads it; ImportError says what is missing."""
    if not SOURCE.exists() or not (HEADERS / "_poolcore" / "ring.h").exists():
        raise ImportError("its C sources are in the project's repository only")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        compiler = ["cc"]
    if shutil.which(compiler[0]) is None:
        raise ImportError("it needs a C compiler")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "rings.so")
        command = [*compiler, *FLAGS, f"-I{HEADERS}", str(SOURCE), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImportError(f"it cannot be compiled: {done.stderr}")
        loaded = ctypes.CDLL(str(target))  # stays mapped when the file is gone
    number, address = ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
        ("lane_bytes", number, ()),
        ("open_lanes", None, (address, number)),
        ("answer", None, (address,)),
        ("exchange", number, (number, number, number)),
        ("stream", number, (number, number, number, number)),
        ("batches", number, (address, number)),
        ("claim_many", number, (number,)),
        ("publish_many", number, (number,)),
        ("consume_all", number, (address, number)),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Lanes:
    """So many pairs of rings in shared memory; `start` forks a process that answers for each.

    One at a time in a process: the C side keeps the caller's ends in static memory.
    """

    def __init__(self, count: int) -> None:
        self.library, self.count = library(), count
        self._size = self.library.lane_bytes()
        self._memory = mmap.mmap(-1, count * self._size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._pids: list[int] = []
        self.library.open_lanes(self._address, count)
        self._consumed = 0

    def start(self) -> None:
        """Forks the processes."""
        for index in range(self.count):
            pid = os.fork()
            if pid == 0:
                try:
                    self.library.answer(self._address + index * self._size)
                finally:
                    os._exit(1)
            self._pids.append(pid)

    def exchange(self, count: int, in_flight: int) -> float:
        """Seconds that so many messages and their answers take."""
        return float(self.library.exchange(self.count, count, in_flight)) / 1e9

    def stream(self, count: int, in_flight: int, depth: int) -> tuple[float, float]:
        """Seconds that messages take, sent one by one and up to `depth` in a row to the same
        process, and how many of them a process found at a time."""
        before = self.library.batches(self._address, self.count)
        seconds = float(self.library.stream(self.count, count, in_flight, depth)) / 1e9
        return seconds, count / (self.library.batches(self._address, self.count) - before)

    def consume_all(self) -> int:
        """Without processes: takes off lane 0 what `publish_many` has put there."""
        count: int = self.library.consume_all(self._address, self._consumed)
        self._consumed += count * 64  # a frame without payload is one line
        return count

    def close(self) -> None:
        """Kills the processes."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description="Messages from one process to several.")
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4, 8, 15])
    parser.add_argument("--depth", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--count", type=int, default=1_000_000, help="messages (1,000,000)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {options.in_flight} in flight")
    for count in options.lanes:
        lanes = Lanes(count)
        lanes.start()
        try:
            lanes.exchange(options.count // 10, options.in_flight)  # until all are awake
            for depth in options.depth:
                runs = [
                    lanes.stream(options.count, options.in_flight, depth) for _ in range(ROUNDS)
                ]
                seconds, batch = sorted(runs)[ROUNDS // 2]
                print(
                    f"{count} processes, depth {depth}: {options.count / seconds:,.0f} messages/s, "
                    f"{batch:.1f} found at a time",
                    flush=True,
                )
        finally:
            lanes.close()


if __name__ == "__main__":
    main()
