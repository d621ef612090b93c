"""Is a count of instructions still what it was? The comparison behind `make perf-guard`.

Counts can be compared only where the same interpreter and the same compiler made the code that
runs. Anywhere else there is nothing to compare with, and the guard says so instead of failing.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path

TOLERANCE = 0.05
Figures = dict[str, dict[str, int]]  # environment: case: instructions a task


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one case."""

    failed: bool
    text: str


def compare(case: str, count: float, environment: str, figures: Figures) -> Verdict:
    """Fails if the count is more than 5 % above the stored one of this environment."""
    stored = figures.get(environment, {}).get(case)
    if stored is None:
        others = [name for name, cases in figures.items() if case in cases]
        known = f"; there is one for {'; '.join(others)}" if others else ""
        return Verdict(False, f"{case}: not compared, no figure is stored for {environment}{known}")
    change = count / stored - 1
    failed = change > TOLERANCE
    return Verdict(
        failed,
        f"{case}: {count:,.0f} instructions a task, stored {stored:,}, change {change:+.1%}, "
        f"allowed {TOLERANCE:+.0%}: {'TOO MANY' if failed else 'good'}",
    )


def store(case: str, count: float, environment: str, path: Path) -> None:
    """Keeps a figure, beside those of other environments and cases."""
    figures = load(path)
    figures.setdefault(environment, {})[case] = round(count)
    path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def load(path: Path) -> Figures:
    """The stored figures; none if there is no such file."""
    if not path.exists():
        return {}
    figures: Figures = json.loads(path.read_text())
    return figures


def environment(core: Path) -> str:
    """Interpreter and its compiler, and the compiler of the core at that path."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{python} {platform.machine()} ({platform.python_compiler()}), core by {compiler_of(core)}"
    )


def compiler_of(binary: Path) -> str:
    """What gcc and clang write into every binary about themselves."""
    found = re.search(rb"(GCC: \([^)]*\) [\d.]+|clang version [\d.]+)", binary.read_bytes())
    return found[1].decode().replace("GCC: ", "GCC ") if found else "an unknown compiler"
