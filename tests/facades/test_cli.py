"""`celery-pool map` as a user runs it: real processes, pipes, terminals and signals."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from celery_pool.cli import main
from celery_pool.cli.stopping import Reason, Stopped, Stopper
from guards import descendants, wait_until
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


# ---- Records


def test_each_line_of_standard_input_in_order() -> None:
    numbers = [str(number) for number in range(300)]
    done = run_map("map_targets:jitter", stdin="\n".join(numbers).encode())
    assert documents(done.stdout) == numbers


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
def test_lines_around_the_size_of_a_read(size: int) -> None:
    text = b"x" * size + b"\n\ny\n"
    assert documents(run_map("builtins:len", stdin=text).stdout) == [size, 0, 1]


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\xc3\xa4\rthree")
    done = run_map("map_targets:Text.upper", str(file))
    assert done.stdout.decode() == '"ONE"\n"TWO"\n""\n"Ä\\rTHREE"\n'
    assert run_map("builtins:len").stdout == b""


def test_files_and_standard_input_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n3a\n")
    (tmp_path / "b").write_text("4\n5\n3b")
    files = [str(tmp_path / "a"), "-", str(tmp_path / "b")]
    done = run_map("map_targets:no_threes", *files, stdin=b"2\n3-\n", status=1)
    assert documents(done.stdout) == ["1", "2", "4", "5"]
    *failures, summary = done.stderr.decode().splitlines()
    assert summary == "celery-pool map: 3 of 7 tasks failed"
    assert sorted(failures) == [
        f"celery-pool map: task 1 ({files[0]}:2): ValueError: 3a has\\na three",
        "celery-pool map: task 3 (stdin:2): ValueError: 3- has\\na three",
        f"celery-pool map: task 6 ({files[2]}:3): ValueError: 3b has\\na three",
    ]


def test_jsonl() -> None:
    lines = [b'{"a": [1, 2.5, null]}', b"", b"  ", b'"\\u00e4"', b"{", b'"\xff"', b"17"]
    done = run_map("map_targets:same", "--jsonl", "--envelope", stdin=b"\n".join(lines), status=1)
    outcomes = documents(done.stdout)
    assert [outcome["index"] for outcome in outcomes] == [0, 3, 4, 5, 6]  # blank: no document
    assert [outcome.get("value") for outcome in outcomes] == [
        {"a": [1, 2.5, None]},
        "ä",
        None,
        None,
        17,
    ]
    assert outcomes[2]["error"]["type"] == "json.decoder.JSONDecodeError"
    assert outcomes[3]["error"]["type"] == "UnicodeDecodeError"
    assert "(stdin:5): json.decoder.JSONDecodeError: " in done.stderr.decode()


def test_null() -> None:
    done = run_map("map_targets:same", "--null", stdin=b"one\nline\r\0\0two")
    assert documents(done.stdout) == ["one\nline\r", "", "two"]


def test_paths(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    done = run_map("os.path:basename", "--paths", missing, "a/b")
    assert documents(done.stdout) == ["missing", "b"]
    names = [b"with\nnewline", b"not utf-8: \xff"]
    done = run_map("os.path:basename", "--paths", "-0", stdin=b"\0".join(names))
    assert documents(done.stdout) == [os.fsdecode(name) for name in names]
    done = run_map("os:listdir", "--paths", missing, str(tmp_path), status=1)
    assert documents(done.stdout) == [[]]
    assert f"task 0 ({missing}): FileNotFoundError: " in done.stderr.decode()


def test_options_may_stand_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n")
    (tmp_path / "b").write_text("2\n")
    done = run_map("--jsonl", "map_targets:same", "-p1", str(tmp_path / "a"), "--limit=1", "--")
    assert done.stdout == b"1\n"
    done = run_map("map_targets:same", str(tmp_path / "a"), "--jsonl", str(tmp_path / "b"))
    assert done.stdout == b"1\n2\n"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that fails")
def test_a_file_that_fails_midway_is_a_failed_task(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n")
    done = run_map(
        "map_targets:same", "/proc/self/mem", str(tmp_path / "a"), "--envelope", status=1
    )
    failed, passed = documents(done.stdout)
    assert failed["index"] == 0
    assert failed["error"]["type"] == "OSError"
    assert passed == {"index": 1, "ok": True, "value": "1"}
    assert "task 0 (/proc/self/mem:1): OSError: " in done.stderr.decode()


# ---- Outcomes


def test_order_and_unordered(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    stdin = f"wait {marker}\na\ntouch {marker}\n".encode()
    workers = ("--processes", "2", "--limit", "2")
    done = run_map("map_targets:waits", *workers, "--unordered", stdin=stdin)
    first, *others = documents(done.stdout)
    assert (first, sorted(others)) == ("a", ["touch", "wait"])  # these two end together
    marker.unlink()
    done = run_map("map_targets:waits", *workers, stdin=stdin)
    assert documents(done.stdout) == ["wait", "a", "touch"]


@pytest.mark.parametrize("order", [[], ["--unordered"]])
def test_the_envelope_keeps_input_and_output_aligned(order: list[str], tmp_path: Path) -> None:
    lines = [str(number) for number in range(500)]
    errors = tmp_path / "errors"
    done = run_map(
        *("map_targets:no_threes", "--envelope", "--errors", str(errors), *order),
        stdin="\n".join(lines).encode(),
        status=1,
    )
    outcomes = documents(done.stdout)
    if order:
        outcomes.sort(key=lambda outcome: outcome["index"])
    assert [outcome["index"] for outcome in outcomes] == list(range(500))
    for line, outcome in zip(lines, outcomes, strict=True):
        if "3" in line:
            error = {"type": "ValueError", "message": f"{line} has\na three"}
            assert outcome == {"index": int(line), "ok": False, "error": error}
        else:
            assert outcome == {"index": int(line), "ok": True, "value": line}
    threes = [number for number in range(500) if "3" in str(number)]
    told = documents(errors.read_bytes())
    assert sorted(failure["index"] for failure in told) == threes
    for failure in told:
        assert failure["source"] == "stdin"
        assert failure["line"] == failure["index"] + 1
        assert failure["type"] == "ValueError"
        assert "in no_threes" in failure["traceback"]
    assert done.stderr.decode() == (
        f"celery-pool map: {len(threes)} of 500 tasks failed, see {errors}\n"
    )


def test_results_that_are_not_json_fail_alone() -> None:
    done = run_map("map_targets:odd_result", stdin=b"set\nnan\nsurrogate\numlaut\nx", status=1)
    assert documents(done.stdout) == ["\udc80", "ä", "x"]
    assert '"ä"'.encode() in done.stdout
    errors = sorted(done.stderr.decode().splitlines()[:-1])
    assert errors[0].startswith("celery-pool map: task 0 (stdin:1): TypeError: ")
    assert errors[1].startswith("celery-pool map: task 1 (stdin:2): ValueError: ")


def test_a_lost_worker_fails_its_task_alone(tmp_path: Path) -> None:
    stdin = b"1\n2\ndie\n3\n4\n"
    done = run_map("map_targets:lethal", "--errors", str(tmp_path / "e"), stdin=stdin, status=1)
    assert documents(done.stdout) == ["1", "2", "3", "4"]
    (failure,) = documents((tmp_path / "e").read_bytes())
    assert failure["index"] == 2
    assert failure["type"] == "celery_pool.WorkerLostError"
    assert failure["message"] == f"worker {failure['pid']} was lost: killed by SIGKILL"
    assert failure["exitcode"] == -signal.SIGKILL
    assert failure["pid"] > 0


def test_max_failures_stops_an_endless_run() -> None:
    with started("map_targets:no_threes", "--max-failures", "3") as process:
        Feeder(process.stdin, b"1\n2\n3\n" * 1000)
        process.stdin = None
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert set(output.split()) <= {b'"1"', b'"2"'}
    *failures, summary = errors.decode().splitlines()
    assert len(failures) >= 3
    assert re.fullmatch(r"celery-pool map: stopped: \d+ of \d+ tasks failed", summary)


def test_output_file(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.write_text("what was there before\n" * 100)
    done = run_map("builtins:len", "--output", str(output), stdin=b"a\nbb\n")
    assert done.stdout == b""
    assert output.read_text() == "1\n2\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_it() -> None:
    with started("builtins:len", "--output", "/dev/full") as process:
        Feeder(process.stdin, b"a\n" * 1000)
        process.stdin = None
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert output == b""
    assert errors == b"celery-pool map: error: cannot write /dev/full: No space left on device\n"


def test_what_the_function_prints_is_not_among_the_results() -> None:
    done = subprocess.run(
        [*MAP, "map_targets:talks", "-p1"],
        input=b"one\ntwo\n",
        capture_output=True,
        timeout=DEADLINE,
        check=True,
        cwd=HERE,
    )
    assert documents(done.stdout) == ["one", "two"]  # and standard input was not read either
    assert sorted(done.stderr.split()) == [b"echoed", b"echoed", b"printed", b"printed"]


def test_start_methods(start_method: str) -> None:
    done = run_map("map_targets:same", "--start-method", start_method, stdin=b"a\nb\n")
    assert documents(done.stdout) == ["a", "b"]


# ---- Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["map_targets"], "'map_targets' is not of the form MODULE:FUNCTION"),
        (["map_targets:"], "'map_targets:' is not of the form MODULE:FUNCTION"),
        (["map_targets.py:same"], "'map_targets.py' is a file; "),
        (["no.such:same"], "there is no module 'no.such'"),
        (["map_targets:no_such"], "module 'map_targets' has no 'no_such'"),
        (["map_targets:NOT_CALLABLE"], "'map_targets:NOT_CALLABLE' is not callable"),
        (["map_targets:coroutine"], "'map_targets:coroutine' is a coroutine function"),
        (["broken:same"], "module 'broken' cannot be imported: ZeroDivisionError: "),
        (["leaving:same"], "module 'leaving' cannot be imported: SystemExit: 0"),
        (["builtins:len", "no/such/file"], "cannot read 'no/such/file': No such file"),
        (["builtins:len", "."], "cannot read '.': it is a directory"),
        (["builtins:len", "--output", "no/such/file"], "cannot write 'no/such/file': No such"),
        (["builtins:len", "broken.py", "-o", "broken.py"], "'broken.py' is input and output"),
        (["builtins:len", "-o", "same", "--errors", "./same"], "--output and --errors name the"),
        (["builtins:len", "--processes", "0"], "--processes/-p: '0' is not a whole number"),
        (["builtins:len", "--limit", "many"], "--limit/-l: 'many' is not a whole number"),
        (["builtins:len", "-p", "3", "-l", "2"], "--limit 2 leaves some of the 3 processes"),
        (["builtins:len", "--max-failures", "0"], "--max-failures: '0' is not a whole number"),
        (["builtins:len", "--jsonl", "--paths"], "not allowed with argument"),
        (["builtins:len", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        ([], "the following arguments are required: MODULE:FUNCTION"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.py").write_text("import map_targets\n1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("broken", "leaving"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["map", *arguments]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("celery-pool map: error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert (tmp_path / "broken.py").read_text() == "import map_targets\n1 / 0\n"
    if "broken:same" in arguments:
        assert errors.endswith("broken.py:2)\n")


def test_the_exit_status_of_usage_errors_and_help() -> None:
    for arguments, status in ([], 2), (["juggle"], 2), (["--help"], 0), (["map", "--help"], 0):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, timeout=DEADLINE, check=False
        )
        assert done.returncode == status
        if status == 2:
            assert done.stderr.startswith(b"celery-pool: error: ")
            assert done.stderr.count(b"\n") == 1
        else:
            assert b"map" in done.stdout
            assert b"usage: celery-pool" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import celery_pool

    with pytest.raises(SystemExit) as leaving:
        main(["--version"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out == f"celery-pool {celery_pool.__version__}\n"


def test_closed_standard_streams() -> None:
    quoted = shlex.join(MAP)

    def shell(line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", line], capture_output=True, timeout=DEADLINE, check=False, cwd=HERE
        )

    done = shell(f"{quoted} builtins:len <&-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"celery-pool map: error: standard input is closed\n"
    done = shell(f"echo a | {quoted} builtins:len >&-")
    assert done.returncode == 2
    assert done.stderr == b"celery-pool map: error: standard output is closed\n"
    done = shell(f"echo a | {quoted} builtins:int 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


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
        self.master, self.slave = pty.openpty()
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
