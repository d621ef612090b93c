"""The application that the tests' workers run: configured by the environment."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import billiard
import billiard.process
from celery import Celery, signals
from celery.exceptions import WorkerShutdown
from celery.loaders.app import AppLoader
from celery.worker.request import Request

import celery_files

celery_files.use()


class Loader(AppLoader):  # type: ignore[misc]
    """Celery's, and what it does in each process may fail."""

    def on_worker_process_init(self) -> None:
        if os.environ.get("CELERY_TEST_BAD_START") == "initializer":
            raise RuntimeError("no licence")


app = Celery("celery_app", loader="celery_app:Loader")
app.conf.update(json.loads(os.environ.get("CELERY_TEST_CONF", "{}")))

if os.environ.get("CELERY_TEST_BAD_START") == "import" and multiprocessing.parent_process():
    raise RuntimeError("no database")

DIRECTORY = Path(os.environ.get("CELERY_TEST_DIRECTORY", "."))


def note(name: str, *words: object) -> None:
    with (DIRECTORY / name).open("a") as file:
        file.write(" ".join(map(str, (os.getpid(), *words))) + "\n")


if "CELERY_TEST_DIRECTORY" in os.environ:
    note("imported")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def pass_gate(name: str = "gate") -> int:
    """Waits until the file `name` is there; says by another one that it does."""
    (DIRECTORY / f"{name}.at.{os.getpid()}").touch()
    while not (DIRECTORY / name).exists():
        time.sleep(0.005)
    return os.getpid()


class Stopping(Request):  # type: ignore[misc]
    """The worker that accepts it stops."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        raise WorkerShutdown(3)


@app.task(Request=Stopping)
def stop() -> str:
    return "stopped"


class Patient(Request):  # type: ignore[misc]
    """Is acknowledged once somebody is at the gate `next`, or after a while."""

    def acknowledge(self) -> None:
        end = time.monotonic() + 10
        while not (begun := [*DIRECTORY.glob("next.at.*")]) and time.monotonic() < end:
            time.sleep(0.005)
        note("acknowledged", len(begun))
        super().acknowledge()


@app.task(Request=Patient, acks_late=True)
def before_next() -> int:
    return int(pass_gate.run("gate"))


class Slow(Request):  # type: ignore[misc]
    """Announces that it is revoked for longer than its process lives then."""

    def acknowledge(self) -> None:
        end = time.monotonic() + 10
        while Path(f"/proc/{self.worker_pid}").exists() and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(0.5)  # what follows from that comes at once, if it comes
        super().acknowledge()


@app.task(Request=Slow, acks_late=True)
def revoked_slowly() -> int:
    return int(pass_gate.run())


@app.task
def same(value: Any) -> Any:
    return value


@app.task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task
def append(name: str, text: str, seconds: float = 0) -> None:
    """To a file, then sleeps."""
    with (DIRECTORY / name).open("a") as file:
        file.write(f"{text}\n")
    time.sleep(seconds)


@app.task
def end_by(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(60)


@app.task
def leave(code: object) -> None:
    sys.exit(code)  # type: ignore[arg-type]


@app.task
def tidy_up(error: str, name: str) -> str:
    """Waits at the gate `name` until an error of that name is raised; then makes the file
    `name`.tidy."""
    try:
        pass_gate.run(name)
    except BaseException as raised:
        if type(raised).__name__ != error:
            raise
        (DIRECTORY / f"{name}.tidy").touch()
        return str(raised)
    return "passed"


@app.task
def swallow(name: str) -> None:
    """Goes on at the gate `name`, whatever is raised."""
    while True:
        try:
            pass_gate.run(name)
            return
        except BaseException:
            (DIRECTORY / f"{name}.swallowed").touch()


@app.task
def loop_in_c() -> None:
    sum(itertools.repeat(0))


@app.task
def use_multiprocessing() -> int:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, [-1, -2, -3]))


@app.task
def use_billiard() -> int:
    child = billiard.Process(target=os._exit, args=(7,))
    child.start()
    child.join()
    code: int = child.exitcode
    return code


@app.task(bind=True, max_retries=3, default_retry_delay=0.05)
def fail_twice(self: Any, name: str) -> int:
    with (DIRECTORY / name).open("a") as file:
        file.write("x")
    if self.request.retries < 2:
        raise self.retry()
    return int(self.request.retries)


class Awkward(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)


@app.task
def fail_awkwardly() -> None:
    raise Awkward(1, two=lambda: 2)


@app.task
def allocate(mib: int, seconds: float = 0) -> int:
    """Keeps it, and sleeps."""
    kept.append(bytearray(os.urandom(1024)) * 1024 * mib)
    time.sleep(seconds)
    return os.getpid()


@app.task
def identity() -> dict[str, Any]:
    process = billiard.process.current_process()
    return {
        "pid": os.getpid(),
        "name": process.name,
        "index": process.index,
        "python": multiprocessing.current_process().name,
        "argv": Path("/proc/self/cmdline").read_text().split("\0"),
    }


@app.task
def ask_parent() -> int:
    return os.getppid()


@app.task
def version() -> str:
    return VERSION


kept: list[bytearray] = []
VERSION = (DIRECTORY / "version").read_text() if (DIRECTORY / "version").exists() else ""


@signals.worker_before_create_process.connect
def process_is_to_be_created(**_: object) -> None:
    note("created")


@signals.worker_process_init.connect
def process_begins(**_: object) -> None:
    note("begun")
    time.sleep(float(os.environ.get("CELERY_TEST_SLOW_START", "0")))
    if os.environ.get("CELERY_TEST_BAD_START") == "exit":
        os._exit(3)


@signals.worker_process_shutdown.connect
def process_ends(pid: int, exitcode: int, **_: object) -> None:
    note("ended", pid, exitcode)


@signals.task_revoked.connect
def task_is_revoked(request: Any, signum: object, **_: object) -> None:
    note("revoked", request.id, signum)
