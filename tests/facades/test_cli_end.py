"""`celery-pool map` as a user runs it: how it ends, memory, the terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shlex
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from celery_pool.cli.stopping import Reason, Stopped, Stopper
from command_line import (
    DEADLINE,
    HERE,
    MAP,
    Feeder,
    MiB,
    memory,
    read_some,
    started,
    wait_for,
    wait_until_it_rests,
)
from guards import descendants, wait_until
from support import open_terminal

# ---- Ends


@pytest.mark.parametrize("ignored", ["", "trap '' INT; "], ids=["foreground", "background job"])
def test_head_ends_it_quietly(ignored: str) -> None:
    """A shell's background jobs ignore SIGINT: the end must not depend on its being deliverable."""
    line = f"{ignored}yes abc | {shlex.join(MAP)} builtins:len | head -n 3; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=DEADLINE, check=False, cwd=HERE
    )
    *results, statuses = done.stdout.decode().splitlines()
    assert results == ["3", "3", "3"]
    assert statuses.split()[1] == "0"
    assert done.stderr == b""


def test_a_reader_who_leaves_ends_it_although_no_input_comes() -> None:
    with started("builtins:len") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert read_some(process.stdout, bool) == b"1\n"
        process.stdout.close()
        process.stdin.write(b"bb\n")
        process.stdin.flush()  # the pipe stays open
        assert process.wait(DEADLINE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C: SIGINT to the whole group; the command ends with 130, at once, and says nothing."""
    os.killpg(process.pid, signal.SIGINT)
    expect_end(process, 130)


def expect_end(process: subprocess.Popen[bytes], status: int) -> None:
    """Ends within moments and without a word, and with it all that it has started."""
    assert process.wait(5) == status
    assert process.stderr is not None
    assert process.stderr.read() == b""
    wait_until(lambda: not others_in_session(process.pid))


def others_in_session(session: int) -> list[str]:
    found = []
    for pid, text in descendants().items():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session and text.split()[1] != "Z":
                found.append(text)
    return found


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_as_well(signum: int, tmp_path: Path) -> None:
    with started("map_targets:sleeps_in_a_child", "-p1") as process:
        assert process.stdin is not None
        process.stdin.write(f"{tmp_path / '0'}\n".encode())
        process.stdin.flush()
        wait_for(tmp_path / "0", process)
        process.send_signal(signum)
        expect_end(process, 128 + signum)


def test_nohup() -> None:
    line = (
        f"trap '' HUP; kill -HUP $$; echo a | {shlex.join(MAP)} builtins:len & kill -HUP $!; wait"
    )
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, timeout=DEADLINE, check=True, cwd=HERE
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


@pytest.mark.parametrize("order", [[], ["--unordered"]])
def test_ctrl_c_in_full_flight(order: list[str]) -> None:
    with started("map_targets:same", *order) as process:
        assert process.stdin is not None
        Feeder(process.stdin, b"".join(b"%d\n" % number for number in range(10_000)))
        process.stdin = None
        taken: list[bytes] = []
        assert process.stdout is not None
        taken.append(read_some(process.stdout, lambda text: len(text) > 100_000))
        fd = os.dup(process.stdout.fileno())
        reader = threading.Thread(target=_read_on, args=(fd, taken))
        reader.start()
        interrupt(process)
        reader.join(DEADLINE)
    lines = b"".join(taken).splitlines()
    if not order:  # what is there is whole and in order, up to the last line
        assert [json.loads(line) for line in lines[:-1]] == [
            str(number % 10_000) for number in range(len(lines) - 1)
        ]


def _read_on(fd: int, taken: list[bytes]) -> None:
    while piece := os.read(fd, 1 << 16):
        taken.append(piece)
    os.close(fd)


def test_ctrl_c_while_it_waits_for_input() -> None:
    with started("map_targets:same") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert read_some(process.stdout, bool) == b'"a"\n'  # at once, though more may come
        interrupt(process)


@pytest.mark.parametrize("function", ["sleeps", "sleeps_in_a_child"])
@pytest.mark.parametrize("limit", ["1", "8"])  # waiting for room, and for the last results
def test_ctrl_c_while_tasks_are_slow(function: str, limit: str, tmp_path: Path) -> None:
    paths = "".join(f"{tmp_path / str(number)}\n" for number in range(4))
    with started(f"map_targets:{function}", "-p1", "--limit", limit) as process:
        assert process.stdin is not None
        process.stdin.write(paths.encode())
        process.stdin.close()
        process.stdin = None
        wait_for(tmp_path / "0", process)
        interrupt(process)


def test_ctrl_c_while_nobody_reads_the_output() -> None:
    with started("map_targets:same") as process:
        assert process.stdin is not None
        Feeder(process.stdin, b"x" * 999 + b"\n")
        process.stdin = None
        wait_until_it_rests(process.pid)
        interrupt(process)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_ctrl_c_while_workers_start(method: str, tmp_path: Path) -> None:
    """The module takes its time in the workers, and says when it begins."""
    marker = tmp_path / "marker"
    (tmp_path / "slow_start.py").write_text(
        "import multiprocessing, pathlib, time\n"
        "if multiprocessing.parent_process() is not None:\n"
        f"    pathlib.Path({str(marker)!r}).touch()\n"
        "    time.sleep(600)\n"
        "def same(text): return text\n"
    )
    if method == "fork":  # the module is imported already: it is the parent that takes its time
        text = (tmp_path / "slow_start.py").read_text()
        (tmp_path / "slow_start.py").write_text(text.replace("is not None", "is None"))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with started(
        *("slow_start:same", "--start-method", method),
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        wait_for(marker, process)
        interrupt(process)


def test_a_stop_is_not_lost_in_a_destructor() -> None:
    """Exceptions have no effect there: it is raised again afterwards, and nothing is printed."""

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with Stopper() as stopper, pytest.raises(Stopped):
        Interrupted()
        assert stopper.reason is Reason.SIGNAL
        threading.Event().wait(DEADLINE)


# ---- Memory


def test_memory_stays_flat_on_endless_input() -> None:
    with started("builtins:len") as process:
        assert process.stdin is not None and process.stdout is not None
        Feeder(process.stdin, b"a line of some length\n" * 2000)
        process.stdin = None
        for _ in range(4):
            read_some(process.stdout, lambda text: len(text) > 100_000)  # bytes: 33,333 results
        before = memory(process.pid)
        for _ in range(6):
            read_some(process.stdout, lambda text: len(text) > 100_000)
        assert memory(process.pid) - before < 8 * MiB


def test_memory_is_bounded_while_the_first_task_is_slow(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with started("map_targets:waits", "--processes", "2") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"wait {marker}\n".encode())
        process.stdin.flush()
        Feeder(process.stdin, b"next\n" * 2000)
        process.stdin = None
        wait_until_it_rests(process.pid)  # it takes no more input
        assert memory(process.pid) < 150 * MiB
        assert not select.select([process.stdout], [], [], 0)[0]
        marker.touch()
        text = read_some(process.stdout, lambda text: text.count(b"\n") > 50_000)
        assert text.startswith(b'"wait"\n"next"\n')


def test_memory_is_bounded_with_large_records(tmp_path: Path) -> None:
    size = 20_000_000
    with started("builtins:len", "--processes", "2") as process:
        assert process.stdin is not None and process.stdout is not None
        Feeder(process.stdin, b"x" * size + b"\n")
        process.stdin = None
        text = read_some(process.stdout, lambda text: text.count(b"\n") >= 8)
        assert set(text.split()) == {b"%d" % size}
        assert memory(process.pid) < 400 * MiB


@pytest.mark.parametrize("order", [[], ["--unordered"]])
def test_memory_is_bounded_while_nobody_reads(order: list[str]) -> None:
    with started("map_targets:same", *order) as process:
        assert process.stdin is not None and process.stdout is not None
        Feeder(process.stdin, b"x" * 9999 + b"\n")
        process.stdin = None
        wait_until_it_rests(process.pid)
        assert memory(process.pid) < 250 * MiB
        line = b'"' + b"x" * 9999 + b'"\n'
        text = read_some(process.stdout, lambda text: len(text) > 50_000_000)  # it goes on
        whole = len(text) // len(line)
        assert text[: whole * len(line)] == line * whole


def test_memory_is_bounded_while_nobody_reads_the_errors() -> None:
    with started("map_targets:no_threes", "--errors", "/dev/stderr") as process:
        assert process.stdin is not None
        Feeder(process.stdin, b"3" * 9999 + b"\n")
        process.stdin = None
        wait_until_it_rests(process.pid)
        assert memory(process.pid) < 250 * MiB


# ---- The terminal


class Screen:
    """What a command writes to a terminal."""

    def __init__(self) -> None:
        self.master, self.slave = open_terminal()
        self.text = b""
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Screen:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.slave is not None:
            self.let_go()
        self._reader.join(DEADLINE)
        os.close(self.master)

    def let_go(self) -> None:
        """After this only the command holds the terminal."""
        os.close(self.slave)
        self.slave = None  # type: ignore[assignment]

    def _read(self) -> None:
        try:
            while piece := os.read(self.master, 1 << 16):
                self.text += piece
        except OSError:  # nobody holds the other end any more
            pass


@pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="needs tqdm")
@pytest.mark.parametrize("both", [False, True], ids=["stderr", "stdout and stderr"])
def test_progress_on_a_terminal(both: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with (
        Screen() as screen,
        started(
            *("map_targets:waits", "--processes", "1", "--limit", "1"),
            stdout=screen.slave if both else subprocess.PIPE,
            stderr=screen.slave,
        ) as process,
    ):
        screen.let_go()
        assert process.stdin is not None
        process.stdin.write(f"a\nwait {marker}\n".encode())
        process.stdin.flush()
        wait_until(lambda: b"1 tasks" in screen.text and b"1 in flight" in screen.text, DEADLINE)
        marker.touch()
        process.stdin.close()
        assert process.wait(DEADLINE) == 0
        screen._reader.join(DEADLINE)
        assert b"0 in flight, 0 failed" in screen.text
        if both:
            assert b'\r"wait"\r\n' in screen.text  # on a line of its own
        else:
            assert process.stdout is not None
            assert process.stdout.read() == b'"a"\n"wait"\n'


def test_no_progress_without_tqdm(tmp_path: Path) -> None:
    (tmp_path / "tqdm.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        Screen() as screen,
        started(
            "map_targets:same", stderr=screen.slave, env=os.environ | {"PYTHONPATH": path}
        ) as process,
    ):
        screen.let_go()
        output, _ = process.communicate(b"a\n", timeout=DEADLINE)
        assert output == b'"a"\n'
        assert process.returncode == 0
    assert screen.text == b""
