"""The Python stack of a task that has run into its limit, as faulthandler has written it."""

from __future__ import annotations

from .worker import worker_main

_FILE = f'  File "{worker_main.__code__.co_filename}", line '


def of_the_task(text: str) -> str:
    """Without what lies below the task: us, multiprocessing, and the program that has called
    run()."""
    lines = []
    below = False
    for line in text.splitlines(keepends=True):
        if not line.startswith("  "):  # a thread's heading
            below = False
        elif line.startswith(_FILE) and line.rstrip().endswith(f" in {worker_main.__name__}"):
            below = True
        if not below:
            lines.append(line)
    return "".join(lines)
