"""The C headers without Python, shortly: c/ring_stress.c (`make stress` takes longer)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compiling import PROJECT, compile_c, finished

SOURCE = PROJECT / "tests" / "stress" / "c" / "ring_stress.c"

pytestmark = pytest.mark.timeout(180)


def build(place: Path, headers: Path = PROJECT / "src") -> Path:
    return compile_c(SOURCE, place / "ring_stress", "-O1", "-pthread", headers=headers)


def test_the_rings_hold_under_stress(tmp_path: Path) -> None:
    output = finished(build(tmp_path), "100000")
    assert "FAILED" not in output


# header, what it says, what it says instead, the mode that finds it, and what that says
FAULTS = [
    ("wait.h", "cp_bell_ring(r->fd);", "(void)r;", "pingpong", "no progress"),
    ("wait.h", "if (!holds(context))\n", "if (1)\n", "duel", "wake-up was lost"),
    ("ring.h", "bytes <= to_end ? bytes : to_end + bytes", "bytes", "sweep", "not so"),
    ("ring.h", "copy->size > to_end ||", "", "garbage", "not so"),
    ("ring.h", "c->size - (head - c->released)", "c->size", "garbage", "not so"),
    ("claim.h", "return tid << 3 | state;", "return state;", "claims", "not so"),
]


@pytest.mark.parametrize(
    "fault",
    FAULTS,
    ids=[f"{header}-{mode}-{n}" for n, (header, _, _, mode, _) in enumerate(FAULTS)],
)
def test_the_stress_finds_faults(fault: tuple[str, str, str, str, str], tmp_path: Path) -> None:
    header, right, wrong, mode, finding = fault
    shutil.copytree(PROJECT / "src" / "_poolcore", tmp_path / "src" / "_poolcore")
    path = tmp_path / "src" / "_poolcore" / header
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    program = build(tmp_path, tmp_path / "src")
    # it ends with the finding; a tenth of the rounds misses one of garbage once in eight runs
    output = finished(program, f"--mode={mode}", "--patience=2", "1000000", expect=1)
    assert finding in output
