"""`celery-pool bench`: the project's benchmark suite, for those who doubt its figures.

The suite is the folder `benchmarks/` of the project. A wheel carries it as `_benchmarks` in this
package; in a checkout it is used where it lies. It is a program of its own, run here as such.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from .usage import UsageError

COMMAND = "celery-pool bench"
HELP = "measure this pool beside others, on this machine"
PROGRAM = "side_by_side"
PACKAGE = Path(__file__).resolve().parent.parent
PLACES = (PACKAGE / "_benchmarks", PACKAGE.parent.parent / "benchmarks")  # installed, checkout


def main(arguments: Sequence[str]) -> int:
    suite = find(PLACES)
    if importlib.util.find_spec("psutil") is None:
        raise UsageError('psutil is not installed: pip install "celery-pool[bench]"')
    sys.path.insert(0, str(suite))  # its modules import each other by plain names
    sys.argv = [COMMAND, *arguments]
    importlib.import_module(PROGRAM).main()
    return 0


def find(places: Sequence[Path]) -> Path:
    """The suite's folder."""
    for place in places:
        if (place / f"{PROGRAM}.py").is_file():
            return place
    raise UsageError("this installation has no benchmarks")
