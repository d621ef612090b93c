"""The core's rings, driven by a bare loop in C (rings.c), for contenders and benchmarks.

Compiled when it is needed, from the headers of the checkout: neither they nor the C file come with
an installed package.
"""

from __future__ import annotations

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
