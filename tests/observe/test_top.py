"""`celery-pool top`: what it shows of a program's pools."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios

import pytest

from celery_pool import _poolcore
from command_line import COMMAND, read_some
from guards import wait_until
from support import DEADLINE, PYTHON, open_terminal, script_environment
from watched import look


def pools(pid):
    return json.loads(look("top", "--once", "--json", pid).stdout)["pools"]


def only(pid):
    (pool,) = pools(pid)
    return pool


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_pool_does(watched, gate, method):
    program = watched(method, limit=500)
    program.do("finish(300, tasks.same, 1)")
    program.do("finish(7, tasks.fail, ValueError, 'no')")
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (at_work,) = gate.await_tasks()
    wait_until(lambda: only(program.pid)["in_flight"] == 1, DEADLINE)
    pool = only(program.pid)
    assert (pool["name"], pool["state"], pool["limit"]) == ("TaskPool-1", "running", 500)
    assert (pool["succeeded"], pool["failed"], pool["lost"]) == (300, 7, 0)
    assert pool["interval"] is None
    assert 0 < pool["rate"] * pool["uptime"] < 308
    functions = {one["name"]: one for one in pool["functions"]}
    assert functions["tasks.same"]["count"] == 300
    assert functions["tasks.fail"]["failed"] == 7
    assert 0 < functions["tasks.same"]["run"]["p50"] <= functions["tasks.same"]["run"]["p99"]
    assert functions["tasks.same"]["wait"]["count"] > 0
    assert functions["tasks.pass_gate"]["run"]["p50"] is None  # it has not ended
    busy = [worker for worker in pool["workers"] if worker["state"] == "busy"]
    assert [(w["pid"], w["function"]) for w in busy] == [(at_work, "tasks.pass_gate")]
    assert busy[0]["running_for"] > 0
    text = look("top", "--once", program.pid).stdout
    assert re.search(rf"{at_work} +busy .*tasks.pass_gate", text)
    assert re.search(r"tasks.same +300 ", text)


def test_why_workers_have_ended_and_what_was_lost(watched, gate):
    program = watched()
    program.do(f"submit(tasks.pass_gate, {gate.path!r})")
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: only(program.pid)["exits"].get("signal") == 1, DEADLINE)
    pool = only(program.pid)
    assert pool["lost"] == 1
    assert [entry["function"] for entry in pool["recent"]] == ["tasks.pass_gate"]
    text = look("top", "--once", program.pid).stdout
    assert "ends of workers: signal 1" in text
    assert f"ago: worker {pid} died" in text


def test_while_the_program_is_stopped(watched):
    program = watched()
    program.do("finish(10, tasks.same, 1)")
    wait_until(lambda: only(program.pid)["succeeded"] == 10, DEADLINE)
    os.kill(program.pid, signal.SIGSTOP)
    assert only(program.pid)["succeeded"] == 10
    os.kill(program.pid, signal.SIGCONT)
    assert program.do("1") == 1


def test_while_the_program_hangs_in_c(watched, tmp_path):
    program = watched()
    program.do("finish(10, tasks.same, 1)")
    program.tell(f"hang_with_the_gil({str(tmp_path / 'hangs')!r})")
    wait_until((tmp_path / "hangs").exists, DEADLINE)
    assert only(program.pid)["submitted"] == 10


def test_all_pools_of_a_program(watched):
    program = watched()
    program.do("globals().update(other=TaskPool(3, context='fork'))")
    program.do("other.run()")
    wait_until(lambda: len(pools(program.pid)[1]["workers"]) > 0, DEADLINE)
    first, second = pools(program.pid)
    assert (first["name"], second["name"]) == ("TaskPool-1", "TaskPool-2")
    assert (first["limit"], second["limit"]) == (None, 3)
    text = look("top", "--once", program.pid).stdout
    assert "TaskPool-1: " in text and "TaskPool-2: " in text
    program.do("other.terminate()")
    wait_until(lambda: len(pools(program.pid)) == 1, DEADLINE)


class Stream:
    """`top --json`, document by document."""

    def __init__(self, pid, *arguments):
        self._process = subprocess.Popen(
            [*COMMAND, "top", "--json", "--interval", "0.05", *arguments, str(pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self):
        return self

    def next(self):
        return json.loads(self._process.stdout.readline())["pools"]

    def __exit__(self, *error):
        self._process.stdout.close()  # it ends by the next document
        self.status = self._process.wait(DEADLINE)
        self.said = self._process.stderr.read()
        self._process.stderr.close()


def test_one_document_for_each_interval(watched):
    program = watched()
    program.do("finish(50, tasks.same, 1)")
    with Stream(program.pid) as stream:
        assert stream.next()[0]["interval"] is None
        wait_until(lambda: stream.next()[0]["rate"] == 0, DEADLINE)
        program.do("finish(20, tasks.same, 1)")
        found = [stream.next()[0] for _ in range(3)]  # one holds them, or two share them
        assert all(pool["interval"] >= 0.05 for pool in found)
        counts = [one["count"] for pool in found for one in pool["functions"]]
        assert sum(counts) == 20
        assert max(pool["rate"] for pool in found) > 0
    assert (stream.status, stream.said) == (0, b"")


def test_functions_sorted(watched):
    program = watched()
    program.do("finish(3, tasks.same, 1)")
    program.do("finish(1, time.sleep, 0.3)")
    program.do("finish(2, tasks.fail, ValueError)")
    wait_until(lambda: sum(f["count"] for f in only(program.pid)["functions"]) == 6, DEADLINE)

    def names(key):
        text = look("top", "--once", "--json", "--sort", key, program.pid).stdout
        return [one["name"] for one in json.loads(text)["pools"][0]["functions"]]

    assert names("name") == ["tasks.fail", "tasks.same", "time.sleep"]
    assert names("rate") == ["tasks.same", "tasks.fail", "time.sleep"]
    assert names("time")[0] == names("run50")[0] == "time.sleep"
    assert names("failed")[0] == "tasks.fail"


def switches(pid):
    """How often threads of a process have been given a CPU, or have left it."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return total


def test_an_idle_pool_does_nothing_for_it(watched):
    program = watched()
    program.do("finish(20, tasks.same, 1)")
    processes = [program.pid, *program.workers()]
    with Stream(program.pid) as stream:
        stream.next()

        def at_rest():
            before = [switches(pid) for pid in processes]
            for _ in range(10):
                stream.next()
            return [switches(pid) for pid in processes] == before

        wait_until(at_rest, DEADLINE, "nobody wakes while the pool is looked at ten times")


def test_a_worker_that_writes_garbage(watched, tmp_path):
    program = watched()
    program.do(f"submit(scribble, {str(tmp_path / 'enough')!r})")
    wait_until(lambda: only(program.pid)["workers"][0]["queued"] >= 0, DEADLINE)
    for _ in range(5):
        assert only(program.pid)["state"] == "running"
        look("top", "--once", program.pid)
    (tmp_path / "enough").touch()
    assert program.do("pool.apply_async(tasks.same, (1,)).get(30)") == 1


# ---- refusals ----


def refused(pid, *, status=1):
    said = look("top", "--once", pid, status=status).stderr
    assert said.startswith("celery-pool top: ") and said.count("\n") == 1
    return said.removeprefix("celery-pool top: ").rstrip()


def test_no_such_process():
    process = subprocess.Popen(["true"])
    process.wait(DEADLINE)
    assert refused(process.pid) == f"there is no process {process.pid}"


def test_a_program_without_a_pool(watched):
    assert refused(os.getpid()) == f"process {os.getpid()} runs no pool of celery_pool"
    program = watched()
    program.do("pool.terminate()")
    assert refused(program.pid) == f"process {program.pid} runs no pool of celery_pool"


def test_a_worker(watched):
    program = watched()
    (pid, _) = program.workers()
    said = refused(pid)
    assert said == f"process {pid} is a worker of the pool of process {program.pid}: look there"


def test_another_build():
    fd = os.memfd_create("celery_pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, _poolcore.layout()["arena"])
        import fcntl

        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert "another build of celery_pool" in refused(os.getpid())
    finally:
        os.close(fd)


@pytest.mark.parametrize("command", ["top", "stack", "trace"])
def test_another_users_process(watched, command):
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    from celery_pool.cli import stack_command, top_command, trace_command  # noqa: F401

    pid = watched().pid
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.dup2(writer, 2)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            from celery_pool.cli import main

            once = ["--once"] if command == "top" else []
            output = ["-o", os.devnull] if command == "trace" else []
            os._exit(main([command, *once, *output, str(pid)]))
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    assert said == (
        f"celery-pool {command}: process {pid} belongs to another user: "
        "only that user and root may look into it\n"
    )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize(
    "arguments",
    [("x",), ("1", "--sort", "size"), ("1", "--interval", "-1"), (), ("0",), ("1",)],
    ids=" ".join,
)
def test_usage(arguments):
    done = subprocess.run(
        [*COMMAND, "top", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("celery-pool top: error: ")


# ---- live ----


class Terminal:
    """A program that runs in a terminal of its own."""

    def __init__(self, *command, columns=120):
        self.fd, inner = open_terminal()
        termios.tcsetwinsize(inner, (40, columns))
        self.before = termios.tcgetattr(inner)
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env={
                **script_environment(),
                "TERM": "xterm-256color",
                "COLUMNS": str(columns),
                "LINES": "40",
            },
        )
        os.close(inner)

    def __enter__(self):
        return self

    def shows(self, *texts):
        """Waits until it has shown them, from now on."""
        read_some(self, lambda found: all(text.encode() in found for text in texts))

    def fileno(self):
        return self.fd

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def ends(self):
        wait_until(lambda: self.process.poll() is not None, DEADLINE)
        return self.process.returncode

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        os.close(self.fd)


@pytest.mark.parametrize("columns", [80, 120])
def test_live_with_keys(watched, columns):
    pytest.importorskip("rich")
    program = watched()
    program.do("finish(3, tasks.same, 1)")
    command = [*COMMAND, "top", "--interval", "0.1", str(program.pid)]
    with Terminal(*command, columns=columns) as terminal:
        terminal.shows("TaskPool-1", "tasks.same", "time▼", "wait p50", "idle", "q: leave")
        terminal.press("s")
        terminal.shows("run p50▼")
        terminal.press("r")
        terminal.shows("run p50▲")
        terminal.press("p")
        terminal.shows("PAUSED")
        terminal.press("q")
        assert terminal.ends() == 0
        assert termios.tcgetattr(terminal.fd)[3] == terminal.before[3]


def test_live_until_the_program_ends(watched):
    pytest.importorskip("rich")
    program = watched()
    with Terminal(*COMMAND, "top", "--interval", "0.1", str(program.pid)) as terminal:
        terminal.shows("TaskPool-1")
        program.do("pool.terminate()")
        terminal.shows(f"process {program.pid} runs no pool of celery_pool")
        assert terminal.ends() == 1


def test_live_without_rich(watched):
    program = watched()
    code = "import sys; sys.modules['rich'] = None; from celery_pool.cli import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    with Terminal(*PYTHON, "-c", code, "top", str(program.pid)) as terminal:
        terminal.shows('pip install "celery-pool[top]"')
        assert terminal.ends() == 2
    done = subprocess.run(
        [*PYTHON, "-c", code, "top", "--once", str(program.pid)],
        capture_output=True,
        timeout=DEADLINE,
        check=True,
        env=script_environment(),
    )
    assert b"TaskPool-1: running" in done.stdout
