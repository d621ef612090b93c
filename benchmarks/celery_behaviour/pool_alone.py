"""The pool as the worker uses it with an event loop, without a broker: prints what a task costs.

python pool_alone.py MODULE:CLASS
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

from celery.app.trace import fast_trace_task, setup_worker_optimizations
from celery_app import app
from kombu.asynchronous import Hub, set_event_loop
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

PROCESSES = 2
IN_FLIGHT = 8  # what the worker prefetches
WARM_UP = 2_000
TASKS = 20_000


class Load:
    def __init__(self, pool: Any, semaphore: LaxBoundedSemaphore) -> None:
        self.pool = pool
        self.semaphore = semaphore
        self.sent = self.done = self.total = 0

    def send(self) -> None:
        self.sent += 1
        number = f"00000000-0000-0000-0000-{self.sent:012}"
        request = {
            "lang": "py",
            "task": "celery_tasks.nothing",
            "id": number,
            "root_id": number,
            "parent_id": None,
            "group": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "gen1@here",
            "reply_to": number,
            "correlation_id": number,
            "hostname": "here",
            "retries": 0,
            "timelimit": [None, None],
            "ignore_result": True,
            "delivery_info": {"exchange": "", "routing_key": "celery", "redelivered": False},
            "args": [],
            "kwargs": {},
        }
        body = b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
        self.semaphore.acquire(self.submit, number, request, body)

    def submit(self, number: str, request: dict[str, Any], body: bytes) -> None:
        self.pool.apply_async(
            fast_trace_task,
            args=("celery_tasks.nothing", number, request, body, "application/json", "utf-8"),
            accept_callback=self.accepted,
            timeout_callback=self.failed,
            callback=self.ended,
            error_callback=self.failed,
            soft_timeout=None,
            timeout=None,
            correlation_id=number,
        )

    def accepted(self, pid: int, when: float) -> None:
        pass

    def ended(self, outcome: tuple[int, Any, float]) -> None:
        assert not outcome[0], outcome
        self.done += 1
        if self.sent < self.total:
            self.send()

    def failed(self, *args: Any, **kwargs: Any) -> None:
        raise SystemExit(f"a task failed: {args} {kwargs}")

    def run(self, loop: Any, tasks: int) -> tuple[float, float]:
        """Seconds, and seconds of this process's CPU."""
        self.sent = self.done = 0
        self.total = tasks
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(IN_FLIGHT):
            self.send()
        while self.done < tasks:
            next(loop)
        return time.perf_counter() - start, time.process_time() - cpu


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    if not name:  # "prefork"
        module, name = f"celery.concurrency.{module}", "TaskPool"
    hub = Hub()
    set_event_loop(hub)
    semaphore = LaxBoundedSemaphore(PROCESSES)
    app.conf.include = ["celery_tasks"]
    app.loader.import_default_modules()
    app.finalize()
    setup_worker_optimizations(app, "here")
    pool = getattr(importlib.import_module(module), name)(
        PROCESSES,
        initargs=(app, "here"),
        threads=False,
        putlocks=False,
        semaphore=semaphore,
        lost_worker_timeout=10.0,
        allow_restart=False,
        forking_enable=True,
        app=app,
    )
    pool.start()
    pool.register_with_event_loop(hub)
    load = Load(pool, semaphore)
    loop = hub.create_loop()
    load.run(loop, WARM_UP)
    seconds, cpu = load.run(loop, TASKS)
    print(json.dumps({"parent": cpu / TASKS * 1e6, "rate": TASKS / seconds}), flush=True)
    pool.terminate()


if __name__ == "__main__":
    main()
