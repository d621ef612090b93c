"""Small programs as users write them, by the package's types.

In `programs/` a line that ends in `# wrong` is an error for each type checker, and no other line
is; what an expression's type is, its `assert_type` says. Those without wrong lines run, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import run_program
from type_checkers import PROGRAMS, WRONG, check, mypy, pyright


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_errors_are_where_they_are_marked(checker, tmp_path):
    check(checker, sys.executable, tmp_path)


@pytest.mark.parametrize(
    "program",
    [path for path in sorted(PROGRAMS.glob("*.py")) if WRONG not in path.read_text()],
    ids=lambda path: path.stem,
)
def test_what_is_right_runs(program: Path):
    done = run_program(program, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
