"""Compiles C programs of the tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def compile_c(source: Path, program: Path, *options: str, headers: Path = PROJECT / "src") -> Path:
    """Skips the test if there is no C compiler."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        compiler = shlex.split(sysconfig.get_config_var("CC") or "gcc")
    if shutil.which(compiler[0]) is None:
        pytest.skip("needs a C compiler")
    finished(*compiler, "-std=gnu11", *options, f"-I{headers}", str(source), "-o", str(program))
    return program


def finished(*command: str | Path, expect: int = 0) -> str:
    """The output of a command that has to end with that status."""
    __tracebackhide__ = True
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == expect, f"{command[0]} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout
