"""kombu's broker of files, but that a file is there only once it is whole. kombu's own may be
read while they are written: the worker that does so ends with a JSONDecodeError."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

#: The tables of bindings that Celery uses, each a file that kombu locks, but once it is there.
EXCHANGES = ("celery", "celery.pidbox", "reply.celery.pidbox", "celeryev")


class Channel(filesystem.Channel):  # type: ignore[misc]
    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{time.monotonic_ns() // 10**6}_{uuid.uuid4()}.{queue}.msg"
        whole = Path(self.data_folder_out, name)
        part = whole.with_suffix(".part")  # of no queue
        part.write_text(dumps(payload))
        part.rename(whole)


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def use() -> None:
    """In this process, for the URL ``filesystem://``."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"


def make_tables(folder: Path) -> None:
    """Empty ones, so that none is read while it is made."""
    for exchange in EXCHANGES:
        (folder / f"{exchange}.exchange").write_text("[]")
