"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from guards import descendants, wait_until
from support import PYTHON

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE = 50.0


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the test names."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    name = request.param
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # so that its functions can be pickled
    spec.loader.exec_module(module)
    return module


def named(name: str) -> Any:
    return pytest.mark.parametrize("example", [name], indirect=True, ids=[name])


# ---- token_stats.py


@named("token_stats")
def test_token_stats(example: ModuleType) -> None:
    assert example.token_stats('    if x1 == 2.5: return f"# {y}"  # done') == {
        "length": 41,
        "indent": 4,
        "tokens": 8,
        "names": 1,
        "keywords": 2,
        "numbers": 1,
        "strings": 1,
        "operators": 2,
        "comments": 1,
        "longest_name": 6,
        "entropy": 3.843,
    }
    assert set(example.token_stats("").values()) == {0}
    assert example.token_stats("'open")["strings"] == 1


def test_token_stats_from_the_command_line() -> None:
    lines = (EXAMPLES / "token_stats.py").read_text().splitlines()
    done = subprocess.run(
        [*PYTHON, "-m", "celery_pool", "map", "token_stats:token_stats", "token_stats.py"],
        capture_output=True,
        timeout=DEADLINE,
        check=True,
        cwd=EXAMPLES,
    )
    assert done.stderr == b""
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["length"] for result in results] == [len(line) for line in lines]


# ---- consumer.py


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Puts the handler back."""
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


@named("consumer")
def test_the_consumer_settles_each_message_once(example: ModuleType, sigterm: None) -> None:
    class Recorder(example.Broker):  # type: ignore[name-defined, misc]
        """Asks for the end after a few hundred messages."""

        def __iter__(self) -> Iterator[Any]:
            for message in super().__iter__():
                if self.delivered == 500:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield message

    broker = Recorder()
    example.consume(broker)
    assert broker.delivered == 500
    assert broker.unsettled == 0
    assert broker.acked > 450
    assert broker.requeued >= 4
    assert set(broker.dead_letters) <= {""}


def test_the_consumer_drains_on_sigterm() -> None:
    process = subprocess.Popen(
        [*PYTHON, "consumer.py"],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("consuming; ")
        wait_until(lambda: len(descendants(process.pid)) >= 2, DEADLINE)  # the workers
        process.terminate()
        output, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert errors == ""
    assert re.fullmatch(r"\d+ delivered: .*, 0 unsettled\n", output)


# ---- asyncio_pool.py, selectors_loop.py


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "asyncio_pool",
            [
                "one: 6",
                "many: 499500",
                "stream: 499500",
                "left early: True",
                "killed: a task that never ends",
                "failed: 'NoneType' object has no attribute 'split'",
            ],
        ),
        ("selectors_loop", ["answers: 0 1", "answers: 0 1 2", "answers: 0 1 2 3"]),
    ],
)
def test_the_event_loops(name: str, lines: list[str]) -> None:
    done = subprocess.run(
        [*PYTHON, f"{name}.py"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        cwd=EXAMPLES,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == lines
    assert done.returncode == 0


# ---- demo.py


def rows(text: str) -> list[list[str]]:
    """The cells of all Markdown tables, without heads and rules."""
    table = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in table]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & set(rules)]


def test_the_demo() -> None:
    done = subprocess.run(
        [*PYTHON, "demo.py", "--compare", "1000", "--survive", "40000"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        cwd=EXAMPLES,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    *contenders, survived = rows(done.stdout)
    assert [row[0] for row in contenders] == [
        "celery_pool.TaskPool",
        "multiprocessing.Pool",
        "concurrent.futures.ProcessPoolExecutor",
    ]
    assert len({row[-1] for row in contenders}) == 1  # the digest
    submitted, finished, lost, never = (int(cell.replace(",", "")) for cell in survived)
    assert submitted == 40_000
    assert never == 0
    assert finished + lost == submitted
    killed = int(re.search(r"(\d+) workers killed", done.stdout).group(1))  # type: ignore[union-attr]
    assert lost <= killed


@named("demo")
def test_the_demo_notices_wrong_results(
    example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["one", "two", "three"]
    right = [example.token_stats(line) for line in lines]
    assert example.survive(lines, str, right, 1)
    assert "WRONG" not in capsys.readouterr().out
    assert not example.survive(lines, str, [*right[:2], None], 1)
    assert "WRONG: 1 results differ from those of part 1" in capsys.readouterr().out
