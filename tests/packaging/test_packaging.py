"""The distributions work where they are installed: no compiler, no Cython, no checkout."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from type_checkers import Errors, check, mypy, pyright

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]

JOB = """\
import multiprocessing

import celery_pool

def square(number):
    return number * number

if __name__ == "__main__":
    for method in multiprocessing.get_all_start_methods():
        results = []
        def collect(result, meta):
            results.append((meta, result))
        with celery_pool.TaskPool(20, processes=2, context=method) as pool:
            for number in range(1000):
                pool.apply_async(square, (number,), callbacks=[collect], meta=number)
        assert sorted(results) == [(n, n * n) for n in range(1000)], results
        print("done", method)
    print(celery_pool.__file__)
"""


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("--sdist", tmp_path_factory)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("--wheel", tmp_path_factory)


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel_of_sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    return build("--wheel", tmp_path_factory, source=next(place.iterdir()))


def build(kind: str, tmp_path_factory: pytest.TempPathFactory, source: Path | None = None) -> Path:
    """Builds in a copy: the checkout may be in use by other runs."""
    place = tmp_path_factory.mktemp("build")
    if source is None:
        source = place / "source"
        skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
        shutil.copytree(PROJECT, source, ignore=skip)
    run(sys.executable, "-m", "build", kind, "-o", place / "dist", source, cwd=place)
    return next((place / "dist").iterdir())


def test_sdist_holds_the_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    here = {
        path.relative_to(PROJECT).as_posix()
        for pattern in ("src/_poolcore.pyx", "src/_poolcore/*.[hp]*", "src/celery_pool/**/*.py*")
        for path in PROJECT.glob(pattern)
        if path.suffix != ".pyc"
    }
    assert here <= names
    assert not [name for name in names if name.startswith("src/") and name.endswith((".c", ".so"))]


def test_wheel_holds_what_runs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"celery_pool/py.typed", "celery_pool/_poolcore.pyi"} <= names
    assert [name for name in names if name.startswith("celery_pool/_poolcore.cpython")]
    assert not [name for name in names if name.endswith((".c", ".h", ".pyx", ".pxi", ".html"))]


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_type_checkers_see_what_is_installed(
    checker: Callable[[str, Path], Errors], wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "env"
    venv.create(place, symlinks=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(next((place / "lib").iterdir()) / "site-packages")
    check(checker, str(place / "bin" / "python"), tmp_path / "cache")


@pytest.mark.parametrize("origin", ["wheel", "wheel_of_sdist"])
def test_wheel_works_without_compiler_and_cython(
    origin: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tmp_path / "env"
    venv.create(place, with_pip=True, symlinks=True)
    python = place / "bin" / "python"
    empty = {"PATH": str(place / "bin"), "HOME": str(tmp_path)}
    for compiler in ("cc", "gcc", "clang"):
        assert shutil.which(compiler, path=empty["PATH"]) is None
    run(
        *(python, "-m", "pip", "install", "--no-index", request.getfixturevalue(origin)),
        cwd=tmp_path,
        env=empty,
    )
    look = "import importlib.util as util; print(util.find_spec('Cython'))"
    assert run(python, "-c", look, cwd=tmp_path, env=empty) == "None\n"

    script = tmp_path / "job.py"
    script.write_text(JOB)
    *printed, where = run(python, script, cwd=tmp_path, env=empty).splitlines()
    assert printed == [f"done {method}" for method in multiprocessing.get_all_start_methods()]
    assert Path(where).resolve().is_relative_to(place.resolve())

    command = place / "bin" / "celery-pool"
    assert "usage" in run(command, "--help", cwd=tmp_path, env=empty).lower()

    psutil = pytest.importorskip("psutil")  # the one package that the benchmarks cannot do without
    found = tmp_path / "found"
    found.mkdir()
    (found / "psutil").symlink_to(Path(psutil.__file__).parent)
    printed = run(
        *(command, "bench", "--workload", "saturated/unbounded", "--duration", "0.05"),
        *("--rounds", "1", "--contender", "celery_pool", "--contender", "billiard"),
        cwd=tmp_path,
        env=empty | {"PYTHONPATH": str(found)},
    )
    assert "| unbounded | rate (tasks/s) |" in printed
    assert "billiard: skipped" in printed
