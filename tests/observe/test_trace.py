"""`celery-pool trace`: each task once, in a form that Perfetto reads."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import time
from collections import Counter

import pytest

from celery_pool import _poolcore
from celery_pool.observe.chrome_trace import ChromeTrace
from celery_pool.observe.outside import SEGMENT, descriptors, pools_of
from celery_pool.observe.recording import Recording
from command_line import COMMAND
from guards import wait_until
from support import DEADLINE
from watched import look

RECORDS = 4096  # CP_RECORDS of layout.h


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def recorded_until(pid):
    """ns; 0: nothing is."""
    (fd,) = descriptors(pid, SEGMENT)
    with open(f"/proc/{pid}/fd/{fd}", "rb") as file:
        file.seek(_poolcore.layout()["trace_until"])
        return struct.unpack("Q", file.read(8))[0]


def start_trace(program, *arguments):
    """Returns when it has begun."""
    before = recorded_until(program.pid)
    process = subprocess.Popen([*COMMAND, "trace", *arguments, str(program.pid)])
    wait_until(lambda: recorded_until(program.pid) > max(before, now()), DEADLINE)
    return process


def stop(process):
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 0


def tasks_of(document):
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def tids(document):
    return Counter(event["args"]["task"] for event in tasks_of(document))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_task_once(watched, tmp_path, method):
    program = watched(method)
    program.do("finish(10, tasks.same, 1)")  # before it
    process = start_trace(program, "--seconds", "60", "-o", str(tmp_path / "trace.json"))
    for _ in range(8):
        program.do("finish(500, tasks.same, 1)")  # together they fit into a recorder
    stop(process)
    document = json.loads((tmp_path / "trace.json").read_text())
    assert tids(document) == Counter(range(11, 4011))
    assert document["otherData"]["missed"] == 0


def test_what_perfetto_needs(watched, tmp_path, gate):
    program = watched()
    path = tmp_path / "trace.json"
    process = start_trace(program, "--seconds", "60", "-o", str(path))
    program.do("finish(200, tasks.same, 1)")
    program.do("finish(20, tasks.fail, ValueError)")
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    gate.await_tasks()
    stop(process)
    document = json.loads(path.read_text())
    assert set(document) == {"displayTimeUnit", "traceEvents", "otherData"}
    events = document["traceEvents"]
    for event in events:
        assert event["ph"] in "XM"
        assert all(type(event[key]) is int for key in ("pid", "tid"))
        assert isinstance(event["name"], str) and event["ts"] >= 0
    workers = program.workers()
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {pid: f"TaskPool-1 worker {n}" for n, pid in enumerate(workers)}
    assert {e["pid"] for e in events} == {program.pid}
    (process_name,) = (e["args"]["name"] for e in events if e["name"] == "process_name")
    assert process_name == f"process {program.pid}"
    found = tasks_of(document)
    assert {event["tid"] for event in found} <= set(workers)
    by_name = Counter(event["name"] for event in found)
    assert by_name == {"tasks.same": 200, "tasks.fail": 20, "tasks.pass_gate": 1}
    for event in found:
        assert (event["cat"] == "task,failed") == (event["name"] == "tasks.fail")
        assert event["args"].get("ended", True) == (event["name"] != "tasks.pass_gate")
        assert event["args"].get("queued_us", 0) >= 0
    assert any("queued_us" in event["args"] for event in found)
    end = now() / 1000
    for pid in workers:  # one after the other
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in found if e["tid"] == pid)
        assert all(
            before[1] <= after[0] + 0.002 for before, after in zip(own, own[1:], strict=False)
        )
        assert all(stop - start >= 0 and stop <= end for start, stop in own)


def test_a_killed_tool_leaves_nothing_on(watched):
    program = watched()
    begin = now()
    process = start_trace(program, "--seconds", "3", "-o", os.devnull)
    process.kill()
    process.wait(DEADLINE)
    assert begin + 3e9 <= recorded_until(program.pid) <= now() + 3e9


def test_it_is_only_ever_raised(watched):
    program = watched()
    (view,) = pools_of(program.pid)
    late = now() + 10**12
    view.record_until(late)
    view.record_until(late - 1)
    assert recorded_until(program.pid) == late
    view.record_until(late + 1)
    assert recorded_until(program.pid) == late + 1


def test_seconds_and_standard_output(watched):
    program = watched()
    done = look("trace", "--seconds", "0.1", program.pid)
    assert tasks_of(json.loads(done.stdout)) == []
    assert done.stderr == "celery-pool trace: 0 tasks\n"


def test_a_file_that_cannot_be_written(watched, tmp_path):
    program = watched()
    said = look("trace", "-o", tmp_path / "no" / "trace", program.pid, status=2).stderr
    assert said.startswith("celery-pool trace: error: cannot write ")
    if os.path.exists("/dev/full"):
        said = look("trace", "--seconds", "0", "-o", "/dev/full", program.pid, status=1).stderr
        assert said.startswith("celery-pool trace: error: cannot write /dev/full: No space")


# ---- the recording itself, look by look ----


class Recorded:
    def __init__(self, program):
        (view,) = pools_of(program.pid)
        self.file = io.StringIO()
        self._trace = ChromeTrace(self.file)
        self.recording = Recording(view, self._trace, "")
        self.recording.begin(now() + 10**12)

    def end(self):
        self.recording.finish()
        self._trace.end({})
        self.document = json.loads(self.file.getvalue())
        return tasks_of(self.document)


def test_each_of_ten_thousand_tasks_once(watched):
    program = watched()
    recorded = Recorded(program)
    for _ in range(5):
        program.do("finish(2000, tasks.same, 1)")
        recorded.recording.look()
    recorded.end()
    assert tids(recorded.document) == Counter(range(1, 10_001))
    assert recorded.recording.missed == 0


def test_workers_that_end_and_their_successors(watched, gate):
    program = watched(processes=1)
    recorded = Recorded(program)
    (first,) = program.workers()
    program.do("finish(10, tasks.same, 1)")
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    gate.await_tasks()
    os.kill(first, signal.SIGKILL)  # nobody has looked since
    wait_until(lambda: program.workers() != [first], DEADLINE)
    program.do("finish(10, tasks.same, 1)")
    wait_until(lambda: pools_of(program.pid)[0].buried == 1, DEADLINE)
    found = recorded.end()
    assert [event["args"]["task"] for event in found if event["tid"] == first] == [*range(1, 12)]
    assert tids(recorded.document) == Counter(range(1, 22))
    (lost,) = (event for event in found if event["name"] == "tasks.pass_gate")
    assert lost["cat"] == "task,failed" and lost["args"]["ended"] is False
    assert recorded.recording.missed_workers == 0


def test_workers_that_nobody_has_seen_are_counted(watched):
    program = watched(processes=1, maxtasksperchild=2)
    recorded = Recorded(program)
    program.do("finish(8, tasks.same, 1)")
    wait_until(lambda: pools_of(program.pid)[0].buried == 4, DEADLINE)
    recorded.end()
    seen = sum(tids(recorded.document).values())
    unseen = recorded.recording.missed_workers
    assert unseen >= 2  # the first one was there, and its successor may have been
    assert seen + 2 * unseen == 8


def test_what_came_too_fast_is_counted(watched):
    program = watched(processes=1)
    recorded = Recorded(program)
    program.do("finish(5000, tasks.same, 1)")
    (view,) = pools_of(program.pid)
    wait_until(lambda: view.functions()["tasks.same"].count == 5000, DEADLINE)
    found = recorded.end()
    assert len(found) + recorded.recording.missed == 5000
    assert RECORDS - 2 <= len(found) <= RECORDS
    assert set(tids(recorded.document).values()) == {1}


def test_what_ran_before_it_began(watched, gate):
    program = watched(processes=1)
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    gate.await_tasks()
    recorded = Recorded(program)
    recorded.recording.look()
    gate.open()
    program.do("finish(1, tasks.same, 1)")
    recorded.recording.look()
    found = recorded.end()
    names = {event["args"]["task"]: event["name"] for event in found}
    assert len(found) == 2
    assert names == {1: "tasks.pass_gate", 2: "tasks.same"}
    assert all("ended" not in event["args"] for event in found)


class Liar:
    """A pool, and its only worker's recorder, that holds what no worker writes."""

    pid, buried = 1, 0

    def recorders(self):
        yield 2, 0, self

    def names(self):
        return {1: "f"}

    def running(self):
        return None

    def records(self, since):
        if not since:
            return 1, 0, []
        start = now() - 1000
        found = [(0, 1, None, start, 1, False), (7, 1, None, 1 << 63, 1, False)]
        found += [(8, 1, None, start, 1 << 62, False), (9, 1, None, start, 1, False)]
        return 5, 0, found


def test_records_that_cannot_be_are_left_out():
    file = io.StringIO()
    trace = ChromeTrace(file)
    recording = Recording(Liar(), trace, "")
    recording.finish()
    trace.end({})
    assert tids(json.loads(file.getvalue())) == {9: 1}
    assert recording.missed == 3


def test_a_recorder_that_goes_backwards_has_missed_nothing(watched):
    program = watched(processes=1)
    (view,) = pools_of(program.pid)
    ((_, _, recorder),) = view.recorders()
    assert recorder.records(10**6) == (0, 0, [])


def test_a_worker_that_writes_garbage(watched, tmp_path):
    program = watched(processes=1)
    recorded = Recorded(program)
    program.do(f"submit(scribble, {str(tmp_path / 'enough')!r})")
    wait_until(lambda: recorded.recording.look() or recorded.recording.missed, DEADLINE)
    for _ in range(100):
        recorded.recording.look()
    (tmp_path / "enough").touch()
    for event in recorded.end():
        assert 0 <= event["ts"] <= event["ts"] + event["dur"] <= now() / 1000
