"""A fault costs exactly the task that it hits; every other one ends as if nothing had been."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fault_table
import fault_tasks
import tasks
from celery_pool import TaskPool, WorkerLostError
from fault_table import CASES, IN_A_CALLBACK, IN_A_TASK, LETHAL, ON_THE_WAY, Case
from guards import wait_until
from processes import signalled_by_another
from support import DEADLINE, Background, Calls, Gate, at_rest, is_gone

pytestmark = pytest.mark.timeout(30)

WORKERS = 2
BYSTANDERS = 12
LARGE = 50_000_000

MODULE = """
import os
import fault_tasks
if os.getpid() != {origin}:
    fault_tasks.reach({gate!r}, {fault!r})
def function(log, number):
    fault_tasks.mark(log, number)
    return "arrived"
"""


class Scene:
    """One row of the table: brings a worker to the place, does the fault, counts."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.gate = Gate(directory)
        self.begun = Gate(directory, "begun")
        self.log = str(directory / "log")
        self.release = str(directory / "release")
        self.module = f"faulty_{directory.name.replace('-', '_')}"
        (directory / f"{self.module}.py").write_text(
            MODULE.format(origin=os.getpid(), gate=self.gate.path, fault=case.fault)
        )
        self.lethal = LETHAL.get(case.fault)
        self.exits: Counter[str] = Counter()

    def options(self) -> dict[str, Any]:
        if self.case.place == "in the initializer":
            return {
                "initializer": fault_tasks.reach_once,
                "initargs": (self.gate.path, self.case.fault),
            }
        if self.case.place == "standing by":
            return {
                "maxtasksperchild": 2,  # who has had one has a successor that stands by
                "initializer": fault_tasks.reach_by_a_thread,
                "initargs": (self.gate.path, self.case.fault),
            }
        if self.case.place.startswith("in the finalizer"):
            return {
                "finalizer": functools.partial(
                    fault_tasks.reach_once, self.gate.path, self.case.fault
                )
            }
        return {}

    def play(self, p: TaskPool) -> float:
        """Returns the seconds from the fault until everybody knows."""
        self.template = parent_of(p.get_worker_pids()[0])
        first = self.submit_bystanders(p, 1000)
        if self.case.place in IN_A_TASK:
            victim = self.submit_victim(p)
            second = self.submit_bystanders(p, 2000)
            if self.case.place == "running, while the pool is renewed":
                self.renew(p)
            (pid,) = self.gate.await_tasks()
            start = self.do(pid)
            seconds = self.await_victim(victim, pid, start)
        else:
            assert [r.get(DEADLINE) for r in first] == list(range(1000, 1000 + BYSTANDERS))
            pid = self.bring_a_worker_there(p)
            start = self.do(pid)
            second = self.submit_bystanders(p, 2000)
            wait_until(lambda: not self.lethal or pid not in p.get_worker_pids(), DEADLINE)
            wait_until(lambda: not self.lethal or is_gone(pid), DEADLINE)
            seconds = time.monotonic() - start
        assert [r.get(DEADLINE) for r in first] == list(range(1000, 1000 + BYSTANDERS))
        assert [r.get(DEADLINE) for r in second] == list(range(2000, 2000 + BYSTANDERS))
        if self.case.place == "in the finalizer":
            p.grow(1)
        Path(self.release).touch()
        wait_until(lambda: len(p.get_worker_pids()) == WORKERS, DEADLINE, "pool at its size")
        assert p.apply_async(fault_tasks.mark, (self.log, 3000)).get(DEADLINE) == 3000
        return seconds

    def renew(self, p: TaskPool) -> None:
        """Until the worker that runs the victim is the last old one; then it comes to the place."""
        roster = p._supervisor.roster
        (busy,) = self.begun.await_tasks()
        (idle,) = set(p.get_worker_pids()) - {busy}
        p.renew()
        wait_until(lambda: is_gone(idle) and p.statistics().exits.get("renewed"), DEADLINE)
        self.exits["renewed"] += 1
        wait_until(lambda: roster.starting() == 0 and roster.missing() == 0, DEADLINE, "successors")
        assert roster.template.pid != self.template
        if self.case.fault == fault_table.NEW_TEMPLATE:
            self.template = roster.template.pid
        self.begun.open()

    def submit_bystanders(self, p: TaskPool, first: int) -> list[Any]:
        return [p.apply_async(fault_tasks.mark, (self.log, first + i)) for i in range(BYSTANDERS)]

    def submit_victim(self, p: TaskPool) -> Any:
        gate, fault = self.gate.path, self.case.fault
        target: Callable[..., Any]
        target, *rest = {
            "unpickling the arguments": lambda: (
                fault_tasks.mark_and_take,
                fault_tasks.Reaches(gate, fault),
            ),
            "importing the function": lambda: (importlib.import_module(self.module).function,),
            "running Python": lambda: (fault_tasks.in_python, gate, fault),
            "running C that holds the GIL": lambda: (
                fault_tasks.in_c_with_the_gil,
                gate,
                tasks.GATE_PATIENCE if self.lethal else 0.2,
            ),
            "pickling the result": lambda: (fault_tasks.when_pickled, gate, fault),
            "running, having called retire()": lambda: (fault_tasks.retired, gate, fault),
            "running, while the pool is renewed": lambda: (
                fault_tasks.in_python_later,
                gate,
                fault,
                self.begun.path,
            ),
            "running, with a child that outlives it": lambda: (
                fault_tasks.with_a_child,
                gate,
                fault,
                self.release,
            ),
        }[self.case.place]()
        return p.apply_async(target, (self.log, 1, *rest))

    def bring_a_worker_there(self, p: TaskPool) -> int:
        place = self.case.place
        old = p.get_worker_pids()
        if place == "idle":
            return old[0]
        if place == "parked":
            wait_until(lambda: is_asleep(old[0]), DEADLINE)
            return old[0]
        if place == "standing by":
            return self.await_spare(p)
        Path(self.gate.path + ".armed").touch()
        if place == "in the finalizer, having called retire()":
            p.apply_async(fault_tasks.retire).get(DEADLINE)
            return self.gate.await_tasks()[0]
        if place == "in the finalizer":
            p.shrink(1)
            self.exits["shrunk"] += 1
            return self.gate.await_tasks()[0]
        os.kill(old[0], signal.SIGKILL)
        self.exits["signal"] += 1
        if place == "in the initializer":
            return self.gate.await_tasks()[0]
        wait_until(lambda: set(p.get_worker_pids()) - set(old), DEADLINE, "replacement")
        return (set(p.get_worker_pids()) - set(old)).pop()

    def await_spare(self, p: TaskPool) -> int:
        """The pid of a worker that stands by and has not been given anything."""

        def spares() -> list[int]:
            workers = [w for w in p._supervisor.roster if w.ready and not w.dead]
            if not any(w.channel.needs_successor for w in workers):
                p.apply_async(tasks.nothing).get(DEADLINE)
            return [w.pid for w in workers if w.channel.spare and not w.channel.serving]

        (pid,) = wait_until(spares, DEADLINE, "one that stands by")
        if self.case.fault in fault_table.BY_THE_WORKER:
            Path(f"{self.gate.path}.for.{pid}").touch()
            self.gate.await_tasks()
        return pid

    def do(self, pid: int) -> float:
        """The fault; returns when it was done."""
        fault = self.case.fault
        if fault not in fault_table.BY_THE_WORKER:
            inflict(fault, pid, self.template)
            start = time.monotonic()
        else:
            start = os.stat(f"{self.gate.path}.at.{pid}").st_mtime - time.time() + time.monotonic()
        if not self.lethal:
            self.gate.open()
            told = {
                "running, having called retire()": "recycled",
                "in the finalizer, having called retire()": "recycled",
                "running, while the pool is renewed": "renewed",
            }
            self.exits.update(told[place] for place in [self.case.place] if place in told)
        elif self.case.place == "in the finalizer, having called retire()":
            # it had done all that it was to do
            self.exits["recycled" if self.case.fault == "exit 0" else self.lethal[1]] += 1
        elif self.case.place != "in the finalizer":
            starting = self.case.place.startswith(("starting", "in the initializer"))
            self.exits["failed_start" if starting else self.lethal[1]] += 1
        return start

    def await_victim(self, victim: Any, pid: int, start: float) -> float:
        if self.lethal is None:
            assert victim.get(DEADLINE) == "arrived"
        else:
            with pytest.raises(WorkerLostError) as caught:
                victim.get(DEADLINE)
            error, code = caught.value, self.lethal[0]
            assert (error.pid, error.exitcode, error.tid) == (pid, code, victim.tid)
            assert error.signal == (signal.Signals(-code).name if code < 0 else None)
            assert victim.worker_pid == pid
        return time.monotonic() - start

    def check(self, p: TaskPool) -> None:
        """After all callbacks."""
        marks = Counter(map(int, Path(self.log).read_text().split()))
        wanted = [*range(1000, 1000 + BYSTANDERS), *range(2000, 2000 + BYSTANDERS), 3000]
        assert set(marks.values()) == {1}
        assert set(marks) - {1} == set(wanted)
        lost = self.lethal is not None and self.case.place in IN_A_TASK
        found = p.statistics()
        assert (found.lost, found.failed, found.in_flight) == (lost, lost, 0)
        # the error may be seen a moment before the exit is counted
        total = self.exits.total()
        wait_until(lambda: self.exits_of(p).total() >= total, DEADLINE, "exits counted")
        exits = self.exits_of(p)
        if self.case.fault in ("SIGKILL of the template", fault_table.NEW_TEMPLATE):
            # it took the exit codes with it, and a start that was asked of it has failed
            assert total <= exits.total() <= total + exits["failed_start"]
            return
        if self.case.place.startswith("starting") and self.lethal and not exits["failed_start"]:
            exits.subtract(signal=1)  # it was faster than we are
            exits.update(failed_start=1)
        assert +exits == self.exits

    def exits_of(self, p: TaskPool) -> Counter[str]:
        exits = Counter(p.statistics().exits)
        if self.case.place == "standing by":
            del exits["recycled"]  # of those who had their two tasks
        return exits


def inflict(fault: str, pid: int, template: int) -> None:
    """One that comes from outside."""
    if fault in ("SIGKILL of the template", fault_table.NEW_TEMPLATE):
        os.kill(template, signal.SIGKILL)
    elif fault == "SIGTERM by somebody else":
        signalled_by_another(pid, signal.SIGTERM)
    else:
        for name in fault.split(", "):
            os.kill(pid, signal.Signals[name])


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(stat.rpartition(")")[2].split()[1])


def is_asleep(pid: int) -> bool:
    return (
        Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "S"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fault(pool, tmp_path, monkeypatch, case):
    monkeypatch.syspath_prepend(tmp_path)
    scene = Scene(case, tmp_path)
    p = pool(100, processes=WORKERS, context=case.method, **scene.options())
    assert scene.play(p) < DEADLINE
    scene.check(p)


@pytest.mark.parametrize("case", IN_A_CALLBACK, ids=str)
def test_fault_while_a_callback_watches(pool, tmp_path, monkeypatch, case):
    """All of it from inside a callback, which keeps the dispatcher busy meanwhile."""
    monkeypatch.syspath_prepend(tmp_path)
    scene = Scene(case, tmp_path)
    p = pool(100, processes=WORKERS, **scene.options())
    played = threading.Event()
    problems: list[BaseException] = []

    def callback(value: Any, meta: Any) -> None:
        try:
            scene.play(p)
        except BaseException as error:
            problems.append(error)
        played.set()

    p.apply_async(tasks.nothing, callbacks=callback)
    assert played.wait(25)
    if problems:
        raise problems.pop()
    wait_until(lambda: at_rest(p), DEADLINE)
    scene.check(p)


@pytest.mark.parametrize("fault", ON_THE_WAY["in the middle of a 50 MB argument"])
@pytest.mark.parametrize("direction", ["argument", "result"])
def test_fault_in_the_middle_of_a_large_payload(pool, tmp_path, direction, fault):
    """At several moments: the task is lost or done, all others are done."""
    p = pool(20, processes=WORKERS)
    log = str(tmp_path / "log")
    data = bytes(LARGE)
    moments = (0.0, 0.004, 0.012, 0.03)
    lost = 0
    for n, moment in enumerate(moments):
        gate = Gate(tmp_path, f"gate{n}")
        if direction == "argument":
            victim = p.apply_async(fault_tasks.size_of, (log, n, data))
            pid = wait_until(lambda v=victim: v.worker_pid, DEADLINE, "claim")
        else:
            victim = p.apply_async(fault_tasks.large, (log, n, gate.path, LARGE))
            (pid,) = gate.await_tasks()
        others = [p.apply_async(fault_tasks.mark, (log, 100 * (n + 1) + i)) for i in range(5)]
        time.sleep(moment)  # where it hits
        for name in fault.split(", "):
            os.kill(pid, signal.Signals[name])
        try:
            outcome = victim.get(DEADLINE)
        except WorkerLostError as error:
            assert fault in LETHAL
            assert (error.pid, error.exitcode) == (pid, -signal.SIGKILL)
            lost += 1
        else:
            assert outcome == LARGE or len(outcome) == LARGE
        assert [r.get(DEADLINE) for r in others] == [100 * (n + 1) + i for i in range(5)]
        wait_until(
            lambda pid=pid: (
                len(p.get_worker_pids()) == WORKERS
                and (fault not in LETHAL or pid not in p.get_worker_pids())
            ),
            DEADLINE,
        )
    marks = Counter(map(int, Path(log).read_text().split()))
    assert set(marks.values()) == {1}
    assert p.statistics().lost == lost
    deaths = len(moments) if fault in LETHAL else 0
    wait_until(lambda: sum(p.statistics().exits.values()) == deaths, DEADLINE, "deaths counted")


@pytest.mark.parametrize("fault", ON_THE_WAY["waiting for completion room"])
def test_fault_while_waiting_for_completion_room(pool, gate, tmp_path, fault):
    """A callback blocks, nobody collects, the worker's ring is full of results."""
    p = pool(40, processes=1, callbacks_in="reaper")
    entered, go_on = threading.Event(), threading.Event()
    good, bad = Calls(), Calls()
    log = str(tmp_path / "log")

    def block(value: Any, meta: Any) -> None:
        entered.set()
        assert go_on.wait(20)

    p.apply_async(tasks.nothing, callbacks=block)
    assert entered.wait(DEADLINE)
    (pid,) = p.get_worker_pids()
    template = parent_of(pid)
    p.apply_async(tasks.pass_gate, (gate.path,))  # who submits collects as well: first all of them
    results = [
        p.apply_async(
            fault_tasks.mark_and_fill, (log, i, 50_000), callbacks=good, errbacks=bad, meta=i
        )
        for i in range(12)
    ]
    gate.open()
    # the ring holds five of them; the sixth has run and waits
    wait_until(lambda: len(marks_in(log)) >= 6 and is_asleep(pid), DEADLINE, "a full ring")
    assert len(marks_in(log)) == 6
    inflict(fault, pid, template)
    if fault in LETHAL:
        wait_until(lambda: pid not in p.get_worker_pids() and p.get_worker_pids(), DEADLINE)
    go_on.set()
    for r in results:
        r.wait(DEADLINE)
    wait_until(lambda: len(good) + len(bad) == 12, DEADLINE)
    assert Counter(marks_in(log)) == Counter(range(12))
    assert [meta for _, meta in bad.calls] == ([5] if fault in LETHAL else [])
    assert all(type(error) is WorkerLostError and error.pid == pid for error in bad.values)
    assert sorted(meta for _, meta in good.calls) == sorted(
        set(range(12)) - {meta for _, meta in bad.calls}
    )
    assert all(len(value) == 50_000 for value in good.values)


def marks_in(log: str) -> list[int]:
    return list(map(int, Path(log).read_text().split())) if os.path.exists(log) else []


def test_seen_soon(pool, tmp_path, record_property):
    """From the kill to the error in the hands of who waits for it."""
    p = pool(4, processes=2)
    seconds = []
    for n in range(9):
        gate = Gate(tmp_path, f"gate{n}")
        victim = p.apply_async(tasks.pass_gate, (gate.path,))
        (pid,) = gate.await_tasks()
        waiting = Background(lambda v=victim: (v.wait(DEADLINE), time.monotonic()))
        start = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        seconds.append(waiting.result()[1] - start)
        with pytest.raises(WorkerLostError):
            victim.get(0)
        wait_until(lambda old=pid: len(set(p.get_worker_pids()) - {old}) == 2, DEADLINE)
    median = statistics.median(seconds)
    record_property("median seconds from kill to error", median)
    assert median < 1
