"""A worker, a Redis with its results, and a client of both, for behaviour tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from brokers import Server, redis_server
from celery_worker import Client, Site, Worker
from guards import descendants, wait_until

#: The worker_pool setting of each.
POOLS = {"prefork": "prefork", "ours": "celery_pool.ext.celery:TaskPool"}


class Run:
    """One `celery worker` with celery_tasks' tasks, for the time of a `with`.

    :param server: a Redis of its own.
    :param pool: "prefork" or "ours".
    :param concurrency: how many processes.
    :param options: further words of the command line.
    :param settings: of the app, by their names in Celery's configuration.
    :param environment: variables, CELERY_TEST_... (see celery_tasks) among them.
    :param broker: "redis", or "filesystem": without an event loop.
    """

    def __init__(
        self,
        server: Server,
        pool: str,
        concurrency: int = 2,
        *options: str,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        broker: str = "redis",
    ) -> None:
        self.server = server
        self.pool = pool
        self.name = f"{pool}@here"
        self._options = ["-c", str(concurrency), "-n", self.name, "--without-mingle", *options]
        self._settings = {"include": ["celery_tasks"], **(settings or {})}
        self._environment = {**(environment or {})}
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        site = Site.redis(self.folder, server.port)
        if broker == "filesystem":
            results = site.conf["result_backend"]
            site = Site.files(self.folder)
            site.conf["result_backend"] = results
        self._site = site
        self._client = Client(site, [])
        self.app = self._client.app
        self._worker: Worker | None = None

    # ---- its life ----

    def start(self) -> Run:
        self._worker = Worker(
            self._site,
            *self._options,
            pool=POOLS[self.pool],
            conf=self._settings,
            environment=self._environment,
            wait=False,
        )
        self.await_log(" ready.", 60.0)
        return self

    def __enter__(self) -> Run:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker by force if it still is there, and all that belongs to it."""
        if self._worker is not None:
            for pid in [self.pid, *self.family()]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.worker.process.wait()
            wait_until(lambda: not self.family(), 10.0, "the worker's processes have ended")
        with contextlib.suppress(AttributeError):
            self.app.backend.result_consumer.stop()
        self._client.close()
        self._folder.cleanup()

    @property
    def worker(self) -> Worker:
        assert self._worker is not None, "it has not been started"
        return self._worker

    @property
    def pid(self) -> int:
        return self.worker.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal to the main process, and waits for its end: the exit status."""
        return self.worker.stop(signal.Signals(number))

    def family(self) -> list[int]:
        """All processes of the worker's session, so orphans as well; no zombies."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                    state, _, _, session = stat.rpartition(")")[2].split()[:4]
                    if int(session) == self.pid and state != "Z":
                        found.append(int(entry))
        return found

    def processes(self) -> list[int]:
        """The pids of what runs tasks, found in /proc: prefork's are the main process's
        children, ours its grandchildren."""
        parents = {pid: parent_of(pid) for pid in descendants(self.pid)}
        children = [pid for pid, parent in parents.items() if parent == self.pid]
        if self.pool == "prefork":
            return children
        return [pid for pid, parent in parents.items() if parent in children]

    # ---- what it says ----

    def log(self) -> str:
        """Its output, and that of --logfile."""
        paths = [self.worker.log_path, *sorted(self.folder.glob("at-*.log"))]
        return "".join(path.read_text(errors="replace") for path in paths)

    def await_log(self, text: str, deadline: float = 30.0) -> None:
        def told() -> bool:
            if text in self.log():
                return True
            assert self.worker.process.poll() is None, "the worker has ended"
            return False

        try:
            wait_until(told, deadline, f"the worker says {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-6000:]}") from None

    def control(self, name: str, **arguments: Any) -> Any:
        """Sends a remote control command and returns the answer."""
        answers = self.app.control.broadcast(
            name, arguments, destination=[self.name], reply=True, timeout=10.0, limit=1
        )
        assert answers, f"no answer to {name}\n{self.log()[-3000:]}"
        return answers[0][self.name]

    def children(self) -> list[int]:
        """The pids of the pool's processes, as `celery inspect stats` has them."""
        return list(self.control("stats")["pool"]["processes"])

    # ---- what it does ----

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        return self.app.send_task(f"celery_tasks.{name}", args, **options)

    def outcome(self, result: AsyncResult, deadline: float = 40.0) -> Any:
        """The value, or the exception, of a task."""
        try:
            return result.get(timeout=deadline, propagate=False)
        except Exception as error:
            raise AssertionError(f"{error!r}\n{self.log()[-6000:]}") from None

    def outcomes(self, results: Sequence[AsyncResult], deadline: float = 60.0) -> list[Any]:
        end = time.monotonic() + deadline
        return [self.outcome(result, max(0.1, end - time.monotonic())) for result in results]

    def redis(self) -> Any:
        """A client of the results' database."""
        return self.app.backend.client

    def waiting(self) -> int:
        """Tasks that the broker (Redis) still has, waiting or not acknowledged."""
        with self.app.pool.acquire(block=True) as connection:
            queue = connection.default_channel.client
            return int(queue.llen("celery")) + int(queue.hlen("unacked"))

    def results(self) -> int:
        """How many tasks have stored their result."""
        return sum(1 for _ in self.redis().scan_iter("celery-task-meta-*", count=1000))

    def began(self, key: str, count: int = 1, deadline: float = 30.0) -> list[bytes]:
        """What tasks have pushed to `key` so far, `count` entries at least."""
        store = self.redis()
        wait_until(lambda: store.llen(key) >= count, deadline, f"{count} entries at {key}")
        return list(store.lrange(key, 0, -1))


@contextlib.contextmanager
def run_alone(pool: str, *args: Any, journal: bool = False, **options: Any) -> Iterator[Run]:
    """A Run on a Redis of its own, which keeps a journal if it is to."""
    with redis_server(journal=journal) as server, Run(server, pool, *args, **options) as run:
        yield run


def parent_of(pid: int) -> int:
    """0 if it has ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    return 0
