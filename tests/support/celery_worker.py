"""`celery worker`, as users start it: from the command line, over a broker of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kombu.pools
from celery import Celery
from celery.result import AsyncResult

import celery_files
from guards import descendants, wait_until
from support import script_environment

OURS = "celery_pool.ext.celery:TaskPool"
PREFORK = "prefork"

#: Seconds in which a worker starts, a task ends and the like, on a machine with other load.
DEADLINE = 40.0


class Site:
    """A broker, a result backend and a directory: where a worker and its clients meet."""

    def __init__(self, directory: Path, conf: dict[str, Any]) -> None:
        self.directory = directory
        self.conf = conf

    @classmethod
    def redis(cls, directory: Path, port: int) -> Site:
        url = f"redis://127.0.0.1:{port}"
        return cls(directory, {"broker_url": f"{url}/0", "result_backend": f"{url}/1"})

    @classmethod
    def files(cls, directory: Path) -> Site:
        """Of a broker that no event loop drives."""
        for name in ("queue", "results", "control"):
            (directory / name).mkdir()
        celery_files.use()
        celery_files.make_tables(directory / "control")
        folders = {
            "data_folder_in": str(directory / "queue"),
            "data_folder_out": str(directory / "queue"),
            "control_folder": str(directory / "control"),
        }
        return cls(
            directory,
            {
                "broker_url": "filesystem://",
                "broker_transport_options": {**folders, "polling_interval": 0.05},
                "result_backend": f"file://{directory / 'results'}",
            },
        )


class Client:
    """Sends tasks and reads their results.

    :param pollers: kombu's transports have made; some leave it to the garbage collector to close
        them, and one the process's end.
    """

    def __init__(self, site: Site, pollers: list[Any]) -> None:
        self._pollers = pollers
        self.app = Celery("client", set_as_current=False)
        self.app.conf.update(site.conf)
        self.results: list[AsyncResult] = []

    def send(self, name: str, *args: Any, **options: Any) -> AsyncResult:
        result = self.app.send_task(f"celery_app.{name}", args, **options)
        self.results.append(result)
        return result

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        return self.get(self.send(name, *args, **options))

    def get(self, result: AsyncResult, deadline: float = DEADLINE) -> Any:
        wait_until(result.ready, deadline, f"{result.id}: {result.state}")
        return result.get(deadline, disable_sync_subtasks=False)

    def await_state(self, result: AsyncResult, *states: str) -> None:
        wait_until(lambda: result.state in states, DEADLINE, f"one of {states}")

    def await_active(self, count: int = 1) -> list[dict[str, Any]]:
        """Until the worker knows of so many tasks that run."""

        def active() -> list[dict[str, Any]]:
            found = [one for one in self.inspect("active") if one["worker_pid"]]
            return found if len(found) >= count else []

        return wait_until(active, DEADLINE, f"{count} active")

    def inspect(self, what: str, *args: Any) -> Any:
        """Of the only worker."""
        (answer,) = self.control("inspect", what, *args).values()
        return answer

    def control(self, kind: str, what: str, *args: Any, **options: Any) -> Any:
        """What the workers answer: to an inspection, or to an order (`kind` is "control")."""
        with self.app.connection_for_write() as connection:

            def answers() -> Any:
                if kind == "inspect":
                    asked = self.app.control.inspect(timeout=2.0, connection=connection)
                    return getattr(asked, what)(*args)
                return self.app.control.broadcast(
                    what, arguments=options, reply=True, timeout=2.0, connection=connection
                )

            found = wait_until(answers, DEADLINE, what)
            return found

    def close(self) -> None:
        for result in self.results:
            with contextlib.suppress(AttributeError):
                result.backend.result_consumer.stop()
        self.app.close()
        kombu.pools.reset()
        for poller in self._pollers:
            poller.close()
        with contextlib.suppress(AttributeError):
            self.app.backend.client.connection_pool.disconnect()


class Worker:
    """One `celery worker` and its log.

    :param options: of the command line.
    :param pool: Celery's name of a pool, or the class of ours.
    :param application: the module of it, on the path or in the site's directory.
    :param conf: of the application, beside the site's.
    :param environment: variables of its environment.
    :param wait: until it is ready.
    """

    def __init__(
        self,
        site: Site,
        *options: str,
        pool: str = OURS,
        application: str = "celery_app",
        conf: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.site = site
        self.log_path = site.directory / f"worker-{time.monotonic_ns()}.log"
        self._environment = {
            **script_environment(),
            "CELERY_TEST_CONF": json.dumps({**site.conf, **(conf or {}), "worker_pool": pool}),
            "CELERY_TEST_DIRECTORY": str(site.directory),
            "PYTHONWARNINGS": "default",
            **(environment or {}),
        }
        self._command: list[str | Path] = [
            Path(sys.executable).with_name("celery"),
            "-A",
            application,
            "worker",
        ]
        self._command += ["-l", "INFO", "--without-mingle", "--without-gossip", *options]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=site.directory,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.await_log(r"\bready\.$")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_log(self, pattern: str, times: int = 1, deadline: float = DEADLINE) -> str:
        """Waits for a line of the log; the last one that matches."""
        __tracebackhide__ = True

        def found() -> list[str]:
            ended = self.process.poll() is not None
            matches = [m.group() for m in re.finditer(pattern, self.log, re.MULTILINE)]
            assert len(matches) >= times or not ended, f"the worker has ended:\n{self.log}"
            return matches if len(matches) >= times else []

        try:
            return wait_until(found, deadline)[-1]
        except AssertionError as error:
            raise AssertionError(f"{pattern!r}: {error}\n{self.log}") from None

    def descendants(self) -> list[int]:
        return list(descendants(self.pid))

    def send_signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def stop(self, signum: signal.Signals = signal.SIGTERM, deadline: float = DEADLINE) -> int:
        """Its exit status."""
        self.send_signal(signum)
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{self.log}") from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        print(self.log)  # to be seen beside a failure
        try:
            if self.process.poll() is None and kind is None:
                self.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
