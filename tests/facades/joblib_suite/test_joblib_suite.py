"""joblib's own tests of Parallel, which its package comes with, on our backend: it stands in the
place of loky's, under its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support import PYTHON, script_environment

joblib = pytest.importorskip("joblib")

#: The version that DIFFERENCES are of.
VERSION = "1.6."

#: Where tests of other backends alone are left out.
CHOSEN = "loky or not (multiprocessing or threading or sequential)"

#: Tests that fail, each for a reason that docs/compatibility.md tells.
DIFFERENCES = {
    "test_auto_memmap_on_arrays_from_generator[loky]": "no memory maps",
    "test_memmapping_leaks[loky]": "no memory maps",
    "test_initializer_reused[2]": "workers end with the call",
    "test_initializer_reused[4]": "workers end with the call",
    **{
        f"test_multiple_generator_call_separated_gc[{kinds}-loky-True]": "calls share nothing"
        for kinds in (
            "generator-generator",
            "generator-generator_unordered",
            "generator_unordered-generator",
            "generator_unordered-generator_unordered",
        )
    },
    "test_nested_parallel_warnings[loky-multiprocessing-True]": "nesting works",
    "test_nested_parallel_warnings[multiprocessing-loky-True]": "nesting works",
    "test_parallel_with_interactively_defined_bound_method_loky": "names loky's class in the log",
}
#: Tests that count warnings. From Python 3.12 on a program with threads that forks is warned, if
#: its other threads have not ended yet; where fork is not the default, there is no such fork.
WARNED = {
    "test_nested_parallel_warnings[loky-loky-False]",
    "test_background_thread_parallelism[loky]",
}
FORKS_WITH_WARNING = (3, 12) <= sys.version_info < (3, 14)
LONGEST = 1200.0


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
def test_joblibs_own_tests(tmp_path):
    if not joblib.__version__.startswith(VERSION):
        pytest.skip(f"the known differences are those from joblib {VERSION}x")
    environment = script_environment()
    here = str(Path(__file__).parent)
    environment["PYTHONPATH"] = os.pathsep.join([here, environment["PYTHONPATH"]])
    report = tmp_path / "report.xml"
    how = ["-q", "--rootdir=.", "-pno:cacheprovider", "--timeout=120", f"--junitxml={report}"]
    which = ["-k", CHOSEN, "--pyargs", "joblib.test.test_parallel"]
    done = subprocess.run(
        [*PYTHON, "-W", "default", "-m", "pytest", *how, *which],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {
        str(case.get("name"))
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    if FORKS_WITH_WARNING:
        failed -= WARNED
    assert failed == DIFFERENCES.keys(), done.stdout[-20_000:]
    assert len(cases) > 380
