"""Signals to the program that has the pool: terminate() in a handler, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time

import pytest

import tasks
from celery_pool import PoolTerminated
from guards import wait_until
from processes import sleeps
from support import (
    DEADLINE,
    PYTHON,
    Background,
    at_rest,
    is_gone,
    open_terminal,
    script_environment,
)

MODES = ["any", "reaper", "caller"]


class Handled:
    """SIGUSR2 runs `action`; `send_when_asleep` sends it once the main thread waits."""

    def __init__(self, action):
        self.action = action
        self.inside = False
        self.seconds = []

    def __call__(self, signum, frame):
        self.inside = True
        start = time.monotonic()
        try:
            self.action()
        finally:
            self.seconds.append(time.monotonic() - start)
            self.inside = False

    def __enter__(self):
        self.before = signal.signal(signal.SIGUSR2, self)
        return self

    def __exit__(self, *exc_info):
        signal.signal(signal.SIGUSR2, self.before)

    def send_when_asleep(self, ready=lambda: True):
        main = threading.main_thread().native_id

        def body():
            wait_until(ready, DEADLINE)
            wait_until(lambda: sleeps(os.getpid(), main), DEADLINE)
            os.kill(os.getpid(), signal.SIGUSR2)

        return Background(body)


def submit(p, results):
    with pytest.raises(PoolTerminated):
        p.apply_async(tasks.nothing)


def get(p, results):
    with pytest.raises(PoolTerminated):
        results[0].get(DEADLINE)


def wait(p, results):
    results[0].wait(DEADLINE)


def wait_for_result(p, results):
    p.wait_for_result()


def reap(p, results):
    p.reap(DEADLINE)


def join(p, results):
    p.close()
    assert p.join(DEADLINE) is True


def drain(p, results):
    report = p.drain(DEADLINE)
    assert report.not_started == report.running == []


def user_code(p, results):
    time.sleep(0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", [submit, get, wait, wait_for_result, reap, join, drain, user_code])
def test_terminate_in_a_handler_that_interrupts(pool, gate, call, mode):
    p = pool(3, processes=1, callbacks_in=mode)
    ended = []  # (whether inside the handler, whether in the main thread)

    def errback(exc, meta):
        main = threading.current_thread() is threading.main_thread()
        ended.append((handled.inside, main))

    results = [p.apply_async(tasks.pass_gate, (gate.path,), errbacks=errback) for _ in range(3)]
    gate.await_tasks()
    workers = p.get_worker_pids()
    with Handled(p.terminate) as handled:
        sender = handled.send_when_asleep()
        call(p, results)
        sender.result()
        wait_until(lambda: handled.seconds, DEADLINE)
    assert len(handled.seconds) == 1
    assert handled.seconds[0] < 3
    assert all(is_gone(pid) for pid in workers)
    Background(p.join).result()
    wait_until(lambda: at_rest(p), DEADLINE)
    assert len(ended) == 3
    if call is not user_code:
        assert (True, True) not in ended, "an errback ran in the handler"
    for r in results:
        with pytest.raises(PoolTerminated):
            r.get(0)


@pytest.mark.parametrize("mode", ["any", "caller"])
def test_terminate_in_a_handler_that_interrupts_a_callback(pool, gate, mode):
    p = pool(4, processes=1, callbacks_in=mode)
    ended = []
    entered = threading.Event()

    def callback(value, meta):
        ended.append("begins")
        entered.set()
        wait_until(lambda: handled.seconds, DEADLINE)
        ended.append("ends")

    def errback(exc, meta):
        ended.append(handled.inside)

    first = p.apply_async(tasks.pass_gate, (gate.path,), callbacks=callback)
    gate.await_tasks()
    results = [p.apply_async(time.sleep, (60,), errbacks=errback) for _ in range(3)]
    with Handled(p.terminate) as handled:
        sender = handled.send_when_asleep(entered.is_set)
        gate.open()
        first.get(DEADLINE)
        sender.result()
    Background(p.join).result()
    wait_until(lambda: at_rest(p), DEADLINE)
    assert ended == ["begins", "ends", False, False, False]
    assert handled.seconds[0] < 3
    for r in results:
        with pytest.raises(PoolTerminated):
            r.get(0)


@pytest.mark.parametrize("mode", MODES)
def test_terminate_in_handlers_at_any_moment(pool, mode):
    """While the main thread submits and reaps as fast as it can."""
    for round_ in range(12):
        p = pool(8, processes=2, callbacks_in=mode)
        ended = []
        results = []
        with Handled(p.terminate) as handled:
            timer = threading.Timer(0.003 + round_ * 0.0007, os.kill, (os.getpid(), signal.SIGUSR2))
            timer.start()
            with contextlib.suppress(PoolTerminated):
                while True:
                    results.append(
                        p.apply_async(
                            tasks.same,
                            (1,),
                            callbacks=lambda value, meta: ended.append(value),
                            errbacks=lambda exc, meta: ended.append(exc),
                        )
                    )
            timer.join()
        Background(p.join).result()
        wait_until(lambda p=p: at_rest(p), DEADLINE)
        assert len(ended) == len(results)
        assert all(r.ready() for r in results)


# ---- Ctrl-C on a terminal ----

SCRIPT = """
import fcntl, os, sys, termios, time
import tasks
from celery_pool import TaskPool

what, method, ignored, gate = sys.argv[1:]

def main():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # ours, and we are in the foreground
    pool = TaskPool(
        2,
        processes=2,
        context=method,
        ignore_sigint=ignored == "True",
        callbacks_in="caller" if what == "callback" else "any",
    )
    pool.run()
    print("workers", *pool.get_worker_pids(), flush=True)

    def callback(value, meta):
        print("ready", flush=True)
        time.sleep(30)

    results = [pool.apply_async(tasks.pass_gate, (gate,)) for _ in range(2 - (what == "callback"))]
    interrupts = 0
    try:
        if what == "callback":
            pool.apply_async(tasks.nothing, callbacks=callback)
            while True:
                pool.wait_for_result()
        if what == "join":
            pool.close()
        print("ready", flush=True)
        if what == "uncaught":
            with pool:
                results[0].get()
        {
            "submit": lambda: pool.apply_async(tasks.nothing),
            "get": lambda: results[0].get(),
            "wait_for_result": pool.wait_for_result,
            "reap": lambda: pool.reap(60),
            "join": pool.join,
            "drain": pool.drain,
        }[what]()
    except KeyboardInterrupt:
        if what == "uncaught":
            raise
        interrupts += 1
    try:
        time.sleep(0.3)
    except KeyboardInterrupt:
        interrupts += 1
    if what == "get" and ignored == "True":
        open(gate, "w").close()
        print("result", results[0].get(10), flush=True)
    pool.terminate()
    pool.join()
    print("interrupts", interrupts, flush=True)

if __name__ == "__main__":
    main()
"""


class Terminal:
    """A program on a pseudo-terminal of its own, in the foreground."""

    def __init__(self, script, *args):
        self.master, slave = open_terminal()
        self.output = ""
        try:
            self.process = subprocess.Popen(
                [*PYTHON, script, *args],
                env={**script_environment(), "PYTHON_COLORS": "0", "TERM": "dumb"},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def read(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # nobody has the other end any more
            return None
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data) or None

    def read_until(self, text):
        end = time.monotonic() + DEADLINE
        while text not in self.output:
            assert self.read(0.1) is not None, self.output
            assert time.monotonic() < end, self.output

    def read_to_the_end(self):
        end = time.monotonic() + DEADLINE
        while self.read(0.1) is not None and time.monotonic() < end:
            if self.process.poll() is not None and not self.read(0):
                break
        return self.process.wait(max(0.1, end - time.monotonic()))

    def press_ctrl_c(self):
        os.write(self.master, b"\x03")


@pytest.fixture
def terminal(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(what, method="fork", ignored=True):
        return Terminal(str(script), what, method, str(ignored), str(tmp_path / "gate"))

    return start


def interrupt(t, count=1):
    t.read_until("ready\n")
    wait_until(lambda: sleeps(t.process.pid), DEADLINE, "the program waits")
    for _ in range(count):
        t.press_ctrl_c()
    return t.read_to_the_end()


def workers_of(t):
    return [int(pid) for pid in re.search(r"workers (.*)", t.output)[1].split()]


@pytest.mark.parametrize(
    "what", ["submit", "get", "wait_for_result", "reap", "join", "drain", "callback"]
)
def test_ctrl_c_in(terminal, what):
    """One KeyboardInterrupt in the parent, and nothing else to be seen."""
    with terminal(what) as t:
        assert interrupt(t) == 0, t.output
        expected = ["workers", "ready"]
        expected += ["result"] if what == "get" else []
        expected += ["interrupts"]
        assert [line.lstrip("^C").split()[0] for line in t.output.splitlines()] == expected, (
            t.output
        )
        assert "interrupts 1" in t.output
        for pid in workers_of(t):
            wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_ctrl_c_under_the_other_start_methods(terminal, method):
    with terminal("get", method) as t:
        assert interrupt(t) == 0, t.output
        assert "Traceback" not in t.output
        assert "interrupts 1" in t.output
        assert "result None" in t.output
        for pid in workers_of(t):
            wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_ctrl_c_that_nobody_catches(terminal, method):
    """The program's own traceback, once, and the end of all."""
    with terminal("uncaught", method) as t:
        assert interrupt(t) == -signal.SIGINT, t.output
        assert t.output.count("Traceback (most recent call last)") == 1, t.output
        assert len(re.findall(r"^KeyboardInterrupt$", t.output, re.M)) == 1, t.output
        for pid in workers_of(t):
            wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


def test_ctrl_c_three_times(terminal):
    """Whatever it interrupts then: the program ends, and the workers with it."""
    with terminal("uncaught") as t:
        interrupt(t, 3)
        for pid in workers_of(t):
            wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


@pytest.mark.parametrize("what", ["get", "submit"])
def test_ctrl_c_when_workers_do_not_ignore_it(terminal, what):
    """Tasks get it, too; workers say nothing by themselves."""
    with terminal(what, ignored=False) as t:
        assert interrupt(t) == 0, t.output
        assert "Traceback" not in t.output, t.output
        assert "interrupts 1" in t.output
        for pid in workers_of(t):
            wait_until(lambda pid=pid: is_gone(pid), DEADLINE)


def test_sigint_reaches_tasks_only_if_asked_for(pool, gate):
    p = pool(1, ignore_sigint=False)
    r = p.apply_async(tasks.pass_gate, (gate.path,))
    (pid,) = gate.await_tasks()
    os.kill(pid, signal.SIGINT)
    r.wait(DEADLINE)
    with pytest.raises(KeyboardInterrupt):
        r.get(0)
    gate.open()
    assert p.apply_async(tasks.same, (1,)).get(DEADLINE) == 1
    deaf = pool(1)
    for pid in deaf.get_worker_pids():
        os.kill(pid, signal.SIGINT)
    assert deaf.apply_async(tasks.same, (2,)).get(DEADLINE) == 2


def test_sigint_of_an_idle_worker_that_does_not_ignore_it(pool, capfd):
    """It stays or goes, but without a word."""
    p = pool(1, ignore_sigint=False)
    for i in range(3):
        (pid,) = wait_until(p.get_worker_pids, DEADLINE)
        wait_until(lambda pid=pid: sleeps(pid), DEADLINE)
        os.kill(pid, signal.SIGINT)
        wait_until(lambda pid=pid: is_gone(pid) or sleeps(pid), DEADLINE)
        assert Background(p.apply_async(tasks.same, (i,)).get, DEADLINE).result() == i
    p.terminate()
    noise = capfd.readouterr().err
    assert "Traceback" not in noise
