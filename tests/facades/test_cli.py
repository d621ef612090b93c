"""`celery-pool map` as a user runs it: real processes, pipes, terminals and signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celery_pool.cli import main
from command_line import (
    COMMAND,
    DEADLINE,
    HERE,
    MAP,
    Feeder,
    documents,
    run_map,
    started,
)

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


# ---- Options of the pool


def test_a_time_limit_of_each_task() -> None:
    done = run_map("map_targets:waits", "--timeout=0.2", stdin=b"wait nothing\n1\n", status=1)
    assert documents(done.stdout) == ["1"]
    assert "task 0 (stdin:1): celery_pool.TimeLimitExceeded: " in done.stderr.decode()


def test_what_takes_long_to_load_is_loaded_once() -> None:
    options = ["--template-initializer", "map_targets:load", "--processes", "2"]
    done = run_map("map_targets:is_loaded", *options, stdin=b"1\n2\nfail\n", status=1)
    assert documents(done.stdout) == [True, True]
    assert done.stderr.decode().splitlines()[0] == "loading"


def test_a_template_initializer_that_is_not_there() -> None:
    done = run_map("builtins:len", "--template-initializer", "os:nope", status=2)
    assert done.stderr == b"celery-pool map: error: module 'os' has no 'nope'\n"


def test_statistics() -> None:
    done = run_map("map_targets:no_threes", "--statistics", stdin=b"1\n3\n", status=1)
    told = json.loads(done.stderr.splitlines()[-1].partition(b": ")[2])
    assert (told["submitted"], told["succeeded"], told["failed"]) == (2, 1, 1)


@pytest.mark.parametrize("wrong", ["x", "-1", "nan", "1e100"])
def test_what_is_no_time(wrong: str) -> None:
    done = run_map("builtins:len", f"--timeout={wrong}", status=2)
    assert f"'{wrong}' is not a number of seconds" in done.stderr.decode()
