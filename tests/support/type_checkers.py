"""What type checkers say of the programs in tests/typing/programs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "typing" / "programs"
WRONG = "# wrong"

Errors = dict[tuple[str, int], str]  # (file's name, line): the first message there


def mypy(python: str, cache: Path) -> Errors:
    """As the user of the interpreter `python` would see it."""
    output = _run(
        *("mypy", "--strict", "--output=json", "--config-file=", f"--cache-dir={cache}"),
        *(f"--python-executable={python}", str(PROGRAMS)),
    )
    found = [json.loads(line) for line in output.splitlines()]
    return {
        (Path(one["file"]).name, one["line"]): one["message"]
        for one in reversed(found)
        if one["severity"] == "error"
    }


def pyright(python: str, cache: Path) -> Errors:
    """The same; it has no cache."""
    output = _run("pyright", "--outputjson", f"--pythonpath={python}", str(PROGRAMS))
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"]
        for one in reversed(json.loads(output)["generalDiagnostics"])
        if one["severity"] == "error"
    }


def check(checker: Callable[[str, Path], Errors], python: str, cache: Path) -> None:
    """Errors in the lines that are marked, and in no other."""
    told = checker(python, cache)
    unexpected = {place: told[place] for place in told if place not in marked()}
    assert unexpected == {}
    assert sorted(told) == sorted(marked())


def marked() -> set[tuple[str, int]]:
    return {
        (path.name, number)
        for path in PROGRAMS.glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith(WRONG)
    }


def _run(module: str, *arguments: str) -> str:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: make .venv/.dev")
    command = [sys.executable, "-m", module]
    if module == "pyright":  # it is a program for node, which comes with it or is fetched
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        if asked.returncode:
            pytest.skip(f"pyright cannot be run here: {asked.stderr.strip()[-200:]}")
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout
