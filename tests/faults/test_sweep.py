"""Every system call may fail; `sweep.py` tells of what, and in which process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compiling import compile_c
from support import PYTHON, START_METHODS, script_environment

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of glibc's functions")


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory):
    """The library that is preloaded."""
    library = tmp_path_factory.mktemp("sweep") / "failing_calls.so"
    options = ("-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    return compile_c(HERE / "c" / "failing_calls.c", library, *options)


@pytest.mark.timeout(50)
def test_calls_of_the_parent(failing_calls, tmp_path):
    swept(failing_calls, tmp_path, "fork", "parent", at_least=50)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("role", ["parent", "template", "worker"])
@pytest.mark.parametrize("method", START_METHODS)
def test_calls(failing_calls, tmp_path, method, role):
    swept(failing_calls, tmp_path, method, role, at_least=10)


def swept(library, tmp_path, method, role, at_least):
    page = tmp_path / "page"
    page.write_bytes(bytes(4096))
    preloaded = " ".join([os.environ.get("LD_PRELOAD", ""), str(library)]).strip()
    environment = script_environment() | {"LD_PRELOAD": preloaded, "FAILING_CALLS": str(page)}
    command = [*PYTHON, HERE / "sweep.py", library, "--method", method, "--role", role]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=390, check=False
    )
    last = done.stdout.rpartition(" calls failed, ")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert last[2].strip() == "0 defects"
    assert int(last[0].split()[-1]) >= at_least
