"""Functions that the tests of `celery-pool map` apply to records."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NOT_CALLABLE = 17
loaded_in = 0


class Text:
    @staticmethod
    def upper(text: str) -> str:
        return text.upper()


def same(value: Any) -> Any:
    return value


def no_threes(text: str) -> str:
    if "3" in text:
        raise ValueError(f"{text} has\na three")
    return text


def jitter(text: str) -> str:
    time.sleep(int(text) % 7 / 2000)
    return text


def waits(text: str) -> str:
    """`wait PATH` lasts until the path exists; `touch PATH` creates it."""
    verb, _, path = text.partition(" ")
    if verb == "touch":
        Path(path).touch()
    while verb == "wait" and not os.path.exists(path):
        time.sleep(0.002)
    return verb


def sleeps(path: str) -> None:
    Path(path).touch()
    time.sleep(600)


def sleeps_in_a_child(path: str) -> None:
    with subprocess.Popen(["sleep", "600"]):
        Path(path).touch()


def odd_result(text: str) -> Any:
    """Results that JSON has no notation for."""
    return {"set": {1}, "nan": math.nan, "surrogate": "\udc80", "umlaut": "ä"}.get(text, text)


def lethal(text: str) -> str:
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return text


def talks(text: str) -> str:
    print("printed")
    subprocess.run(["echo", "echoed"], check=True)
    return text + sys.stdin.read() + os.read(0, 100).decode()


def load() -> None:
    """A template initializer that talks."""
    global loaded_in
    loaded_in = os.getpid()
    print("loading")


def is_loaded(text: str) -> bool:
    if text == "fail":
        raise ValueError(text)
    return loaded_in not in (0, os.getpid())


async def coroutine(text: str) -> str:
    return text
