"""The application that the tests' workers run: configured by the environment."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from celery import Celery

app = Celery("celery_app")
app.conf.update(json.loads(os.environ.get("CELERY_TEST_CONF", "{}")))

DIRECTORY = Path(os.environ.get("CELERY_TEST_DIRECTORY", "."))


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
