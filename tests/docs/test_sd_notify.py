"""The consumer of docs/reliability.md under a service manager that waits for it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

from support import DEADLINE, PYTHON

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_it_says_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "sd_notify" in block]
    script = tmp_path / "consumer.py"
    script.write_text(block)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(DEADLINE)
        subprocess.run(
            [*PYTHON, str(script)],
            env={**os.environ, "NOTIFY_SOCKET": address},
            check=True,
            timeout=2 * DEADLINE,
        )
        assert {manager.recv(100) for _ in range(2)} == {b"READY=1", b"STOPPING=1"}
