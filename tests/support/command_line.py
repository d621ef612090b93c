"""What tests of the command line share."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guards import wait_until
from support import PYTHON

HERE = Path(__file__).parents[1] / "support"
COMMAND = [*PYTHON, "-m", "celery_pool"]
MAP = [*COMMAND, "map"]
DEADLINE = 30.0
MiB = 1024  # in KiB, the unit of /proc


def run_map(
    *arguments: str, stdin: bytes = b"", status: int = 0, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*MAP, *arguments],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        cwd=HERE,
        **options,
    )
    assert done.returncode == status, done.stderr.decode()
    if status == 0:
        assert done.stderr == b""
    return done


def documents(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A running command in a process group of its own, as a shell starts it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [*MAP, *arguments], cwd=HERE, start_new_session=True, **(pipes | options)
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_some(stream: Any, enough: Callable[[bytearray], object]) -> bytes:
    """Reads until there is enough, or the deadline is over."""
    end = time.monotonic() + DEADLINE
    text = bytearray()
    while not enough(text):
        ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"only {len(text)} bytes came: {text[-200:]!r}"
        piece = os.read(stream.fileno(), 1 << 16)
        assert piece, f"the output ended after {len(text)} bytes: {text[-200:]!r}"
        text += piece
    return bytes(text)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the running process has created the path."""
    wait_until(lambda: path.exists() or process.poll() is not None, DEADLINE)
    if process.poll() is not None:
        assert process.stderr is not None
        raise AssertionError(f"ended with {process.returncode}: {process.stderr.read().decode()}")


def memory(pid: int) -> int:
    """The resident memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))  # type: ignore[union-attr]


def bytes_read(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def wait_until_it_rests(pid: int) -> None:
    """Until the process has read something, and reads no more."""
    seen = [(0.0, 0)]

    def rests() -> bool:
        now, read = time.monotonic(), bytes_read(pid)
        if read != seen[0][1]:
            seen[0] = now, read
        return now - seen[0][0] > 0.5

    wait_until(rests, DEADLINE)


class Feeder(threading.Thread):
    """Writes the same bytes again and again until the reader is gone."""

    def __init__(self, stream: Any, chunk: bytes) -> None:
        super().__init__(daemon=True)
        self._fd = os.dup(stream.fileno())
        stream.close()
        self._chunk = chunk
        self.start()

    def run(self) -> None:
        try:
            while True:
                os.write(self._fd, self._chunk)
        except OSError:
            pass
        finally:
            os.close(self._fd)
