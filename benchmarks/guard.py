"""Is a count of instructions or cache lines what it was? The comparison behind `make perf-guard`.

Counts can be compared only where the same interpreter and the same compiler made the code that
runs. Anywhere else there is nothing to compare with, and the guard says so instead of failing.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, dict[str, float]]  # environment: case, with what is counted: so many a task


@dataclass(frozen=True)
class Unit:
    """What is counted, and by how much it may grow."""

    name: str
    tolerance: float


INSTRUCTIONS = Unit("instructions", 0.05)
CACHE_LINES = Unit("cache lines", 0.1)


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one case."""

    failed: bool
    text: str


def compare(case: str, count: float, unit: Unit, environment: str, figures: Figures) -> Verdict:
    """Fails if the count is above that stored here by more than the unit allows."""
    key = _key(case, unit)
    stored = figures.get(environment, {}).get(key)
    if stored is None:
        others = [name for name, cases in figures.items() if key in cases]
        known = f"; there is one for {'; '.join(others)}" if others else ""
        return Verdict(False, f"{key}: not compared, no figure is stored for {environment}{known}")
    change = count / stored - 1
    failed = change > unit.tolerance
    return Verdict(
        failed,
        f"{key}: {count:,.1f} a task, stored {stored:,}, change {change:+.1%}, "
        f"allowed {unit.tolerance:+.0%}: {'TOO MANY' if failed else 'good'}",
    )


def store(case: str, count: float, unit: Unit, environment: str, path: Path) -> None:
    """Keeps a figure, beside those of other environments and cases."""
    figures = load(path)
    figures.setdefault(environment, {})[_key(case, unit)] = round(count, 1)
    path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def _key(case: str, unit: Unit) -> str:
    return f"{case}: {unit.name}"


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
