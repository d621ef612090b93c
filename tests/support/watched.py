"""A program with a pool, for tests that look into it from outside: `Watched`. Run as a program, it
evaluates the lines of its standard input, one after the other."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time  # noqa: F401 (for the expressions)
from pathlib import Path
from typing import Any

import tasks
from celery_pool import TaskPool, _poolcore
from command_line import COMMAND, read_some
from support import PYTHON, script_environment

DEADLINE = 30.0


class Watched:
    """The program, seen from the test.

    :param options: of its pool; texts and numbers.
    """

    def __init__(self, method: str, *, before: str = "None", **options: Any) -> None:
        """:param before: an expression that is evaluated before the pool runs."""
        options = {"limit": None, "processes": 2, "context": method, **options}
        self._process = subprocess.Popen(
            [*PYTHON, __file__, json.dumps(options), before],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=script_environment(),
        )
        self.pid = self._process.pid
        assert self._answer() == "runs"

    def do(self, text: str) -> Any:
        """What the expression yields there, as JSON has it. It knows `pool`, `submit(f, *args)`,
        `finish(n, f, *args)`, which waits for the results, and the modules of this one."""
        self.tell(text)
        return self._answer()

    def tell(self, text: str) -> None:
        """Does not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        return json.loads(read_some(self._process.stdout, lambda text: text.endswith(b"\n")))

    def workers(self) -> list[int]:
        return self.do("pool.get_worker_pids()")

    def end(self) -> None:
        self._process.kill()  # its workers end with it
        self._process.wait(DEADLINE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def look(command: str, *arguments: Any, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A command of ours, run to its end."""
    done = subprocess.run(
        [*COMMAND, command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == status, done.stderr + done.stdout
    return done


# ---- what it may be told to do ----


def hang_with_the_gil(path: str) -> None:
    """In C code, in a call that goes on after a signal."""
    reader, _ = os.pipe()
    Path(path).touch()
    ctypes.PyDLL(None).read(reader, ctypes.create_string_buffer(1), 1)


def have_threads(count: int) -> None:
    for _ in range(count):
        threading.Thread(target=wait_in_a_thread, daemon=True).start()


def wait_in_a_thread() -> None:
    threading.Event().wait()


def scribble(path: str) -> None:
    """Writes garbage where this worker is looked at, until the file is there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:celery_pool worker" in line:
            _, end = (int(text, 16) for text in line.split()[0].split("-"))
    size = _poolcore.layout()["shown"]
    shown = (ctypes.c_ubyte * size).from_address(end - size)
    draw = random.Random(0)
    while not os.path.exists(path):
        at = draw.randrange(size // 8) * 8 if draw.random() < 0.9 else draw.choice((0, 8))
        shown[at : at + 8] = draw.randbytes(8)


def spin(path: str) -> None:
    while not os.path.exists(path):
        pass


def reset(signum: int, handler: int = signal.SIG_DFL) -> None:
    signal.signal(signum, handler)


def main() -> None:
    options = json.loads(sys.argv[1])
    eval(sys.argv[2], globals())
    pool = TaskPool(options.pop("limit"), **options)
    pool.run()

    def submit(function, *args):
        return pool.apply_async(function, args, {}, [], [lambda error, meta: None])

    def finish(count, function, *args):
        for result in [submit(function, *args) for _ in range(count)]:
            result.wait(DEADLINE)

    assert tasks  # which the expressions use
    space = {**globals(), "pool": pool, "submit": submit, "finish": finish}
    print('"runs"', flush=True)
    for line in sys.stdin:
        print(json.dumps(eval(line, space), default=repr), flush=True)


if __name__ == "__main__":
    main()
