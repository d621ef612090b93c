"""The benchmark suite: it runs, its report says what was measured, its guard fails if it has to."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_pool.cli import bench_command
from celery_pool.cli.usage import UsageError
from support import PYTHON

pytest.importorskip("psutil")

SUITE = Path(__file__).resolve().parents[2] / "benchmarks"
BENCH = [*PYTHON, "-m", "celery_pool", "bench"]
DEADLINE = 50.0
HERE, ELSEWHERE = "CPython 3.11.7 (GCC 12)", "CPython 3.12.1 (GCC 12)"


@pytest.fixture(autouse=True)
def suite(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The suite's modules can be imported by their plain names, in this test only."""
    monkeypatch.syspath_prepend(str(SUITE))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{SUITE}/"):
            del sys.modules[name]


def bench(
    *arguments: str, status: int = 0, deadline: float = DEADLINE
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*BENCH, *arguments],
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    return done


# ---- the command ----


def test_bench_measures_and_prints_a_table(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    done = bench(
        *("--workload", "saturated/unbounded", "--workload", "round_trip"),
        *("--contender", "celery_pool", "--contender", "multiprocessing"),
        *("--rounds", "1", "--duration", "0.05", "--out", str(kept)),
    )
    assert "| unbounded | rate (tasks/s) |" in done.stdout
    assert "no-op, limit 100,000: rate against multiprocessing" in done.stdout
    document = json.loads(kept.read_text())
    measured = {(s["workload"], s["contender"]) for s in document["samples"] if s["figures"]}
    assert measured == {
        (workload, contender)
        for workload in ("saturated", "round_trip")
        for contender in ("celery_pool", "multiprocessing")
    }
    assert document["machine"]["python"] and document["versions"]["celery-pool"]


def test_bench_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['billiard'] = None\n"  # as if it were not installed
        "from celery_pool.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["bench", "--workload", "saturated/unbounded", "--rounds", "1"]
    arguments += ["--duration", "0.05", "--contender", "billiard", "--contender", "celery_pool"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert "billiard: skipped" in done.stdout
    assert 'pip install "celery-pool[bench]"' in done.stdout
    assert "| unbounded | rate (tasks/s) |" in done.stdout


def test_bench_needs_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(UsageError, match=r'pip install "celery-pool\[bench\]"'):
        bench_command.main([])


def test_bench_needs_its_suite(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no benchmarks"):
        bench_command.find([tmp_path])


def test_bench_tells_wrong_options() -> None:
    assert "usage: celery-pool bench" in bench("--nonsense", status=2).stderr


def samples(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["samples"]
    return found


@pytest.mark.slow
def test_all_contenders_that_are_installed_run(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    short = ("--rounds", "1", "--duration", "0.05", "--out", str(kept))
    bench("--workload", "round_trip", *short)
    found = samples(kept)
    assert not [(sample["contender"], sample["error"]) for sample in found if sample["error"]]
    names = {sample["contender"] for sample in found}
    assert {"celery_pool", "multiprocessing", "concurrent.futures", "raw_pipe"} <= names


LONG = {"idle", "instructions"}  # the workloads that take their time, however short one wants it


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_all_workloads_run(tmp_path: Path) -> None:
    import workloads
    from measure import Parameters

    names = set(workloads.NAMES) - LONG
    if importlib.util.find_spec("celery_pool.aio") is None:
        names -= {"asyncio_program"}
    if importlib.util.find_spec("numpy") is None:
        names -= {"payload"}
    chosen = []
    for name in names:
        case = next(iter(workloads.load(name).cases(Parameters(), False)))
        chosen += ["--workload", f"{name}/{case}"]
    kept = tmp_path / "results.json"
    short = ("--rounds", "1", "--duration", "0.05", "--out", str(kept))
    bench(*chosen, "--contender", "celery_pool", *short, deadline=150.0)
    found = samples(kept)
    assert not [(sample["workload"], sample["error"]) for sample in found if sample["error"]]
    assert {sample["workload"] for sample in found} == names


def test_the_rings_alone_answer_every_message() -> None:
    try:
        import rings

        lanes = rings.Lanes(2)
    except ImportError as error:
        pytest.skip(str(error))
    assert lanes.library.claim_many(100) == 100
    for _ in range(20):  # more than once around the ring
        assert lanes.library.publish_many(1_000) == 1_000
        assert lanes.consume_all() == 1_000
    lanes = rings.Lanes(2)
    lanes.start()
    try:
        for in_flight in (1, 2, 2_048):
            assert lanes.exchange(20_000, in_flight) > 0
    finally:
        lanes.close()


# ---- what it consists of ----


def test_every_workload_has_cases() -> None:
    import workloads
    from measure import Parameters

    for name in workloads.NAMES:
        cases = workloads.load(name).cases(Parameters(), False)
        assert cases, name


def test_the_full_run_names_what_exists() -> None:
    import contenders
    import full
    import workloads
    from measure import Parameters

    assert set(full.PLAN) == set(workloads.NAMES)
    for name, plan in full.PLAN.items():
        cases = workloads.load(name).cases(Parameters(), False)
        assert set(plan) - {full.ALL_CASES} <= set(cases), name
        for chosen in plan.values():
            assert set(chosen) <= set(contenders.MODULES), name
            assert {full.OURS, full.OUR_POOL} & set(chosen)


def test_the_full_run_measures_every_target() -> None:
    """With a figure of 1 for everything that the full run measures, each target has a value."""
    import full
    import workloads
    from measure import Parameters
    from results import Key, Spread
    from targets import targets

    summary = {}
    for name in workloads.NAMES:
        workload = workloads.load(name)
        for case, parameters in workload.cases(Parameters(), False).items():
            for contender in full.contenders_for(name, case):
                for measure in workload.measures:
                    key = Key(name, case, measure, contender)
                    summary[key] = Spread(1.0, 1.0, 1.0, parameters.rounds or 5)
    for target in targets((3, 11)):
        for bound in (target.bound, *target.aims):
            assert bound.figure.of(summary) == 1.0, target.text


# ---- the report ----


def results(*figures: tuple[str, str, str, str, float]) -> Any:
    """Results of one round each: workload, case, measure, contender, value."""
    from results import Results, Sample

    made = Results(
        machine={"cpu": "a CPU", "cores": 2, "system": "a system", "python": "CPython 3.11.7"}
        | {"load": 0.0},
        commit="c0ffee",
        versions={},
        started="2024-01-01T00:00:00+00:00",
        options={},
    )
    for workload, case, measure, contender, value in figures:
        made.samples.append(Sample(workload, case, contender, 0, {measure: value}))
    return made


RATE = ("saturated", "unbounded", "rate")


def test_targets_are_met_or_missed() -> None:
    import report

    good = results((*RATE, "celery_pool", 900_000.0), (*RATE, "multiprocessing", 30_000.0))
    assert "| 30 x or 900,000 tasks/s | met |" in report.targets_table(good)
    bad = results((*RATE, "celery_pool", 300_000.0), (*RATE, "multiprocessing", 30_000.0))
    assert "| 10 x or 300,000 tasks/s | **missed** |" in report.targets_table(bad)


def test_python_3_13_has_a_target_of_its_own() -> None:
    from targets import targets

    assert targets((3, 12))[0].bound.at_least == 20
    assert targets((3, 13))[0].bound.at_least == 18


def test_the_worst_run_counts_from_ten_runs_on() -> None:
    from results import Key, Spread
    from targets import targets

    (target,) = (target for target in targets((3, 11)) if "worst of 10" in target.text)
    key = Key("limited", "in flight = processes", "rate", "celery_pool")
    assert target.bound.figure.of({key: Spread(100.0, 40.0, 120.0, 9)}) is None
    value = target.bound.figure.of({key: Spread(100.0, 40.0, 120.0, 10)})
    assert value == 0.4 and not target.bound.met(value)


def test_paced_latency_is_compared_with_the_best_peer() -> None:
    from targets import targets

    paced = ("paced", "1,000/s", "p50")
    made = results(
        (*paced, "celery_pool", 10.0),
        (*paced, "multiprocessing", 80.0),
        (*paced, "pebble", 30.0),
        (*paced, "inline", 1.0),  # no peer
    )
    (target,) = (t for t in targets((3, 11)) if t.text.startswith("1,000/s arriving: p50"))
    value = target.bound.figure.of(made.summary())
    assert value == pytest.approx(1 / 3) and not target.bound.met(value)


DOCUMENT = """\
Before.

<!-- figures: saturated -->
old
<!-- end of figures -->

Between.

<!-- figures: nanoseconds -->
not of this run
<!-- end of figures -->
"""


def test_tables_go_into_their_places() -> None:
    import report

    made = results((*RATE, "celery_pool", 900_000.0), (*RATE, "multiprocessing", 30_000.0))
    filled = report.fill(DOCUMENT, made)
    assert "old" not in filled and "not of this run" in filled
    assert "| unbounded | rate (tasks/s) | 900,000, 30 x | 30,000 |" in filled
    assert filled.startswith("Before.") and "Between." in filled
    assert report.fill(filled, made) == filled


def test_ratios_are_to_whom_the_interface_is_from() -> None:
    import report

    row = ("facades", "Executor.map, chunksize 1", "rate")
    made = results((*row, "celery_pool", 400_000.0), (*row, "concurrent.futures", 8_000.0))
    assert "| 400,000, 50 x | 8,000 |" in report.figures("facades", made)
    assert f"| {row[1]}: rate against concurrent.futures | at least 60 x |" in (
        report.targets_table(made)
    )


def test_an_unknown_place_is_told() -> None:
    import report

    with pytest.raises(ValueError, match="nonsense"):
        report.fill(DOCUMENT.replace("saturated", "nonsense"), results())


def test_the_documents_name_places_that_exist() -> None:
    import report

    document = (SUITE.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    names = {place["name"] for place in report.PLACE.finditer(document)}
    assert {"machine", "targets", "headline", "nanoseconds"} <= names
    report.fill(document, results())


# ---- the guard ----


@pytest.mark.parametrize(
    ("count", "failed"), [(1_000, False), (1_049, False), (1_051, True), (2_000, True), (10, False)]
)
def test_the_guard_fails_past_five_percent(count: int, failed: bool) -> None:
    import guard

    stored = {HERE: {"a case: instructions": 1_000.0}}
    verdict = guard.compare("a case", count, guard.INSTRUCTIONS, HERE, stored)
    assert verdict.failed == failed
    assert ("TOO MANY" in verdict.text) == failed


def test_the_guard_compares_nothing_across_environments() -> None:
    import guard

    stored = {ELSEWHERE: {"a case: instructions": 1_000.0}}
    verdict = guard.compare("a case", 2_000, guard.INSTRUCTIONS, HERE, stored)
    assert not verdict.failed
    assert "not compared" in verdict.text and ELSEWHERE in verdict.text


def test_figures_are_stored_beside_others(tmp_path: Path) -> None:
    import guard

    path = tmp_path / "figures.json"
    for case, count, environment in (("a", 1.44, HERE), ("b", 2, HERE), ("a", 3, ELSEWHERE)):
        guard.store(case, count, guard.INSTRUCTIONS, environment, path)
    assert guard.load(path) == {
        HERE: {"a: instructions": 1.4, "b: instructions": 2},
        ELSEWHERE: {"a: instructions": 3},
    }


def test_the_environment_names_python_and_compilers() -> None:
    import guard
    import instructions

    environment = guard.environment(instructions.core())
    assert sys.version.split()[0] in environment
    assert "core by" in environment and "unknown" not in environment


PROFILE = """\
events: Ir

ob=(1) /lib/libpython3.11.so.1.0
fn=(1) eval
16 100
+3 20
cob=(2) /core/_poolcore.cpython-311.so
cfn=(2) submit
calls=5 32
16 400
* 7

ob=(2)
fn=(2)
32 380
fn=(3) push
40 20
"""


def test_own_costs_leave_out_what_was_called() -> None:
    import instructions

    assert instructions.own_costs(PROFILE) == {
        "eval [libpython3]": 127,
        "submit [_poolcore]": 380,
        "push [_poolcore]": 20,
    }


def test_own_costs_of_other_events() -> None:
    import instructions

    profile = PROFILE.replace("events: Ir", "events: Ir Dr D1mr D1mw").replace(
        "40 20", "40 20 9 2 1\n41 5 9 3"
    )
    costs = instructions.own_costs(profile, instructions.CACHE_LINES)
    assert costs["push [_poolcore]"] == 6
    assert costs["submit [_poolcore]"] == 0


def test_messages_to_several_processes() -> None:
    done = subprocess.run(
        [*PYTHON, str(SUITE / "rings.py"), "--lanes", "1", "3", "--count", "20000"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout.count("messages/s") == 4
