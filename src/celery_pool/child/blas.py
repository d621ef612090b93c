"""How many threads numeric libraries use: by default each of them one a CPU, in each worker, and
with as many workers as CPUs they mostly wait for each other."""

from __future__ import annotations

import os
import sys

#: What OpenMP, OpenBLAS, MKL, BLIS, Accelerate, Numba and NumExpr look at when they are loaded.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def set_by_user() -> frozenset[str]:
    return frozenset(name for name in VARIABLES if name in os.environ)


def limit_threads(count: int, spare: frozenset[str]) -> None:
    """Of libraries that are loaded later.

    :param spare: variables to leave as they are.
    """
    for name in VARIABLES:
        if name not in spare:
            os.environ[name] = str(count)


def limit_loaded(count: int) -> None:
    """Of those that are loaded, if threadpoolctl is installed; forked children inherit it."""
    if "numpy" in sys.modules:
        try:
            import threadpoolctl
        except ImportError:
            return
        threadpoolctl.threadpool_limits(count)
