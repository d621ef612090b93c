"""The documents' Python blocks run, each as a script of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import PYTHON, script_environment

ROOT = Path(__file__).parents[2]
DEADLINE = 50.0


def blocks() -> Iterator[object]:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text()
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            # the lines before keep the numbers of tracebacks right
            code = "\n" * line + match[1]
            yield pytest.param(code, id=f"{document.name}:{line}")


@pytest.mark.parametrize("code", list(blocks()))
def test_block(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code)
    done = subprocess.run(
        [*PYTHON, script],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    # of some blocks it is the subject that limits hit, and the log says that they did
    assert re.sub(r"^task .* is past its .*\n", "", done.stderr, flags=re.MULTILINE) == ""
    assert done.returncode == 0
