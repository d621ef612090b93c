"""What the workers of behaviour tests and benchmarks run. The app, celery_app's, includes this."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

from celery import current_app, shared_task, signals
from celery.exceptions import SoftTimeLimitExceeded

#: What `worker_process_init` does: seconds to sleep, and whether to take the main process's lock.
INIT_SLEEP = float(os.environ.get("CELERY_TEST_INIT_SLEEP", "0"))
INIT_LOCK = bool(os.environ.get("CELERY_TEST_INIT_LOCK"))
#: A file to which `worker_process_init` and `_shutdown` append a line each.
SIGNALS_FILE = os.environ.get("CELERY_TEST_SIGNALS_FILE")

lock = threading.Lock()


@signals.worker_process_init.connect
def at_start(**_: Any) -> None:
    note("init", os.getpid())
    time.sleep(INIT_SLEEP)
    if INIT_LOCK:
        with lock:
            pass


@signals.worker_process_shutdown.connect
def at_end(pid: int, exitcode: int, **_: Any) -> None:
    note("shutdown", pid, exitcode)


def note(*words: object) -> None:
    if SIGNALS_FILE:
        with open(SIGNALS_FILE, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")


@signals.worker_ready.connect
def hold_the_lock_half_of_the_time(**_: Any) -> None:
    """As a metrics or logging library's thread might, in the main process."""
    if not INIT_LOCK:
        return

    def hold() -> None:
        while True:
            with lock:
                time.sleep(0.05)
            time.sleep(0.05)

    threading.Thread(target=hold, daemon=True).start()


def redis() -> Any:
    """The client of the result backend: what tasks leave there is what really happened."""
    return current_app.backend.client


@shared_task(ignore_result=True)
def nothing() -> None:
    pass


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def pid() -> int:
    return os.getpid()


@shared_task
def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@shared_task
def fail(text: str) -> None:
    raise ValueError(text)


@shared_task(bind=True)
def announce(self: Any, seconds: float, key: str) -> int:
    """Pushes its pid to a list in Redis when it begins."""
    redis().rpush(key, os.getpid())
    time.sleep(seconds)
    return os.getpid()


@shared_task(bind=True)
def swallow(self: Any, seconds: float, key: str) -> str:
    """Takes no notice of being terminated."""
    redis().rpush(key, os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)
    redis().rpush(key, "its end")
    return "its end"


@shared_task
def kill_me(number: int = signal.SIGKILL, after: float = 0.0) -> None:
    """The poison pill."""
    time.sleep(after)
    os.kill(os.getpid(), number)
    time.sleep(60)


@shared_task
def leave(code: int) -> None:
    raise SystemExit(code)


@shared_task
def in_c(key: str) -> None:
    """One call of C code that holds the GIL and looks at no signal, practically for ever."""
    redis().rpush(key, time.time())
    collections.deque(itertools.repeat(None), maxlen=0)


@shared_task(bind=True)
def soft(self: Any, seconds: float) -> str:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        time.sleep(1.5)  # a second signal would end the clean-up
        return "cleaned up"
    return "in time"


@shared_task(bind=True, acks_late=True)
def count(self: Any, key: str, field: str, seconds: float = 0.0) -> str:
    """Counts how many times it began."""
    redis().hincrby(key, field, 1)
    time.sleep(seconds)
    return field


@shared_task(bind=True, max_retries=5)
def retried(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task
def log(text: str) -> int:
    logging.getLogger("celery_tasks").warning(text)
    return os.getpid()


@shared_task
def take(blob: str) -> int:
    return len(blob)


@shared_task
def allocate(mebibytes: int) -> int:
    global kept
    kept = bytearray(mebibytes << 20)
    return os.getpid()


@shared_task
def with_multiprocessing(n: int, times: int) -> list[list[int]]:
    """Pools end their processes by SIGTERM, some of them while they start."""
    found = []
    for _ in range(times):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found.append(pool.map(abs, range(-n, 0)))
    return found


@shared_task
def dispositions_of_a_child() -> dict[str, str]:
    """What SIGTERM, SIGQUIT and SIGINT do in a process that a task forks, in it and here."""
    numbers = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            default = [signal.getsignal(number) == signal.SIG_DFL for number in numbers]
            os.write(writer, repr(default).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    here = [signal.getsignal(number) == signal.SIG_DFL for number in numbers]
    return {"child": text, "here": repr(here)}


@shared_task
def unpicklable_result() -> Any:
    return lambda: None


@shared_task
def identity() -> dict[str, Any]:
    from billiard import current_process

    me = current_process()
    return {"name": me.name, "index": me.index, "pid": os.getpid(), "parent": os.getppid()}


@shared_task
def wait_for(path: str, key: str) -> int:
    """Until there is a file of that name."""
    redis().rpush(key, os.getpid())
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


@shared_task(bind=True, max_retries=5)
def soak(self: Any, kind: str, seconds: float) -> str:
    """Says how often it has begun, and ends as its kind says."""
    redis().hincrby("began", f"{self.request.id} {self.request.retries}", 1)
    if kind == "error":
        raise ValueError(kind)
    if kind == "retry" and self.request.retries < 2:
        raise self.retry(countdown=0)
    if kind == "hard":
        collections.deque(itertools.repeat(None), maxlen=0)
    time.sleep(5.0 if kind == "soft" else seconds)
    return str(self.request.id)
