"""A short soak, with each disturbance once at least; `make soak DURATION=300` is the long form."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support import PYTHON, script_environment

SOAK = str(Path(__file__).with_name("soak.py"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("seconds", "options"),
    [
        (6, ["--start-method", "fork", "--callbacks-in", "any"]),
        (2, ["--start-method", "forkserver", "--callbacks-in", "reaper"]),
        (2, ["--start-method", "spawn", "--callbacks-in", "caller"]),
    ],
    ids=["fork", "forkserver", "spawn"],
)
def test_soak(seconds, options):
    ended = subprocess.run(
        [*PYTHON, SOAK, "--json", "--seconds", str(seconds), *options],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.stdout, ended.stderr[-3000:]
    summary = json.loads(ended.stdout)
    assert summary["problems"] == [], summary
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert summary["submitted"] > 100 * seconds
