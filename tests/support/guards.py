"""Polling helpers, and the comparison of what the process owns before and after a test."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing.forkserver
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.shared_memory
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from celery_pool import TaskPool

T = TypeVar("T")

PR_SET_CHILD_SUBREAPER = 36


def wait_until(predicate: Callable[[], T], deadline: float = 10.0, message: str | None = None) -> T:
    """Polls until the predicate's value is true and returns it; fails after `deadline` seconds."""
    __tracebackhide__ = True
    end = time.monotonic() + deadline
    pause = 0.0005
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            what = message or getattr(predicate, "__name__", "condition")
            raise AssertionError(f"{what}: not true within {deadline} s (last value: {value!r})")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def sign_names() -> None:
    """Names that multiprocessing makes in /dev/shm hold our pid, its children's as well."""
    multiprocessing.process.current_process()._config["semprefix"] = f"/mp-{os.getpid()}"  # type: ignore[attr-defined]
    multiprocessing.shared_memory._SHM_NAME_PREFIX = f"/{os.getpid()}-"  # short, as it has to be


def adopt_orphans() -> None:
    """Makes orphaned grandchildren children of this process, so that none escapes the guard."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Belongings:
    """What this process owns: each entry a key to compare and a text for people."""

    children: dict[Any, str] = field(default_factory=dict)
    threads: dict[Any, str] = field(default_factory=dict)
    descriptors: dict[Any, str] = field(default_factory=dict)
    memory: dict[Any, str] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Belongings:
        return cls(_children(), _threads(), _descriptors(), _shared_memory())

    def beyond(self, earlier: Belongings) -> list[str]:
        """Texts of what is here and was not there earlier."""
        return [
            f"{kind}: {text}"
            for kind, mine, theirs in (
                ("child process", self.children, earlier.children),
                ("thread", self.threads, earlier.threads),
                ("descriptor", self.descriptors, earlier.descriptors),
                ("shared memory", self.memory, earlier.memory),
            )
            for key, text in mine.items()
            if key not in theirs
        ]


def leftovers(earlier: Belongings, deadline: float = 5.0) -> list[str]:
    """What is still left behind after `deadline` seconds. Pools and processes among it are
    ended, so that whoever comes next begins without them."""
    left = _wait_for(earlier, deadline)
    if left:
        _end_children_beyond(earlier)
        _wait_for(earlier, deadline)
    return left


def _wait_for(earlier: Belongings, deadline: float) -> list[str]:
    """What is left once all is gone, or after `deadline` seconds."""
    end = time.monotonic() + deadline
    pause = 0.001
    while left := Belongings.now().beyond(earlier):
        if time.monotonic() >= end:
            break
        gc.collect()  # a cycle may hold the last reference
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return left


def _end_children_beyond(earlier: Belongings) -> None:
    """A pool would replace a worker that is only killed."""
    for pool in [found for found in gc.get_objects() if issubclass(type(found), TaskPool)]:
        if set(pool.get_worker_pids()) & (_children().keys() - earlier.children.keys()):
            pool.terminate()
    for pid in _children().keys() - earlier.children.keys():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(root: int | None = None) -> dict[int, str]:
    """All living descendants of a process: pid -> state and command line."""
    offspring: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # the process may be gone before it is read
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text(errors="replace")
                state, parent = stat.rpartition(")")[2].split()[:2]
                offspring.setdefault(int(parent), []).append((int(entry), state))
    found = {}
    pending = [os.getpid() if root is None else root]
    while pending:
        for pid, state in offspring.get(pending.pop(), ()):
            found[pid] = f"{pid} {state} {_command_line(pid)}"
            pending.append(pid)
    return found


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")[:200]
    return ""


def _standing_helpers() -> set[int | None]:
    """multiprocessing's resource tracker and fork server live on by design."""
    return {
        getattr(multiprocessing.resource_tracker._resource_tracker, "_pid", None),
        getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None),
    }


def _children() -> dict[Any, str]:
    if not os.path.isdir("/proc/self"):
        return {p.pid: str(p) for p in multiprocessing.process._children}  # type: ignore[attr-defined]
    helpers = _standing_helpers()
    unreaped = {p.pid for p in multiprocessing.process._children}  # type: ignore[attr-defined]
    found = {}
    for pid, text in descendants().items():
        if pid in helpers:
            continue
        if text.split()[1] == "Z" and pid not in unreaped:
            # an adopted orphan: nobody else can wait for it
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            continue
        found[pid] = text
    return found


def _threads() -> dict[Any, str]:
    return {thread: repr(thread) for thread in threading.enumerate()}


def _descriptors() -> dict[Any, str]:
    helpers = {
        getattr(multiprocessing.resource_tracker._resource_tracker, "_fd", None),
        getattr(multiprocessing.forkserver._forkserver, "_forkserver_alive_fd", None),
    }
    found = {}
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for entry in os.listdir(directory):
        # the descriptor of this listing is closed already
        with contextlib.suppress(OSError):
            target = os.readlink(f"{directory}/{entry}") if directory != "/dev/fd" else ""
            os.fstat(int(entry))
            if int(entry) not in helpers and not _is_cached_heap(os.path.basename(target)):
                found[entry, target] = f"{entry} -> {target}"
    return found


def _shared_memory() -> dict[Any, str]:
    """What we have mapped, and our names in /dev/shm: other programs make some as well."""
    found: dict[Any, str] = {}
    if os.path.isdir("/dev/shm"):
        ours = re.compile(rf"(?<!\d){os.getpid()}(?!\d)")
        names = [name for name in os.listdir("/dev/shm") if ours.search(name)]
        found = {f"/dev/shm/{n}": f"/dev/shm/{n}" for n in names if not _is_cached_heap(n)}
    if os.path.exists("/proc/self/maps"):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            _, _, _, device, inode, *path = line.split(maxsplit=5)
            if not path or _is_cached_heap(os.path.basename(path[0])):
                continue
            if re.match(r"/memfd:|/dev/shm/", path[0]):
                found[device, inode] = f"mapping of {path[0]} (inode {inode})"
    return found


def _is_cached_heap(name: str) -> bool:
    """multiprocessing keeps the arenas of `Value` and `Array` for reuse."""
    return name.startswith("pym-")
