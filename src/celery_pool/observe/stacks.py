"""Python stacks of another process, as its faulthandler writes them on a signal; see host/dumps.py.

The process itself does nothing for it in Python, so it may hang, in C code too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterable

from ..child.stacks import of_the_task
from ..host.dumps import NAME, dump_signal
from ..host.signals import catches, masks
from .outside import descriptors, opened

FILE = f"/memfd:{NAME} (deleted)"

#: How long a process may take to answer, in seconds.
PATIENCE = 5.0
PAUSE = 0.001
#: Bytes: faulthandler stops at 100 threads and 100 frames of each, but a worker may write anything.
LONGEST = 1 << 22


class NoAnswer(Exception):
    """Of one process; the text says why, as what follows its name in a sentence."""


def stacks_of(pids: Iterable[int], patience: float = PATIENCE) -> dict[int, str | NoAnswer]:
    """All threads of each process, those of ours below a task left out.

    :param patience: seconds that all of them together have. What has come by then of a text is
        taken, and says so.
    """
    end = time.monotonic() + patience
    found: dict[int, str | NoAnswer] = {}
    with contextlib.ExitStack() as opened_files:
        asked = {}
        for pid in pids:
            question = opened_files.enter_context(Question(pid))
            try:
                question.ask(end)
                asked[pid] = question
            except NoAnswer as error:
                found[pid] = error
        for pid, question in asked.items():
            try:
                found[pid] = of_the_task(question.answer(end))
            except NoAnswer as error:
                found[pid] = error
    return found


class Question:
    """To one process. The signal is sent only if it has a handler for it, and to no other
    process that has got its pid: the default action would end it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._signum = dump_signal()
        self._files = contextlib.ExitStack()
        self._pidfd = -1
        self._file = -1

    def __enter__(self) -> Question:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def ask(self, end: float) -> None:
        """Sends the signal.

        :param end: how long to wait for others who ask, monotonic seconds.
        :raises NoAnswer: it has not been sent.
        """
        try:
            self._pidfd = os.pidfd_open(self._pid)
            self._files.callback(os.close, self._pidfd)
            (fd,) = descriptors(self._pid, FILE)[:1]
            self._file = self._files.enter_context(opened(self._pid, fd, FILE, os.O_RDWR))
            self._lock(end)
            offered = os.stat(f"/proc/{self._pid}/fd/{fd}").st_ino
        except ValueError:
            raise NoAnswer("does not tell its stacks: it has no file for them") from None
        except PermissionError:
            raise NoAnswer("belongs to another user") from None
        except (FileNotFoundError, ProcessLookupError):
            raise NoAnswer("has ended, or its pool has") from None
        if self._has_ended() or offered != os.fstat(self._file).st_ino:
            raise NoAnswer("has ended, or its pool has")
        if not catches(self._pid, self._signum):
            raise NoAnswer("does not tell its stacks: a task has reset its signal handlers")
        if _state(self._pid) in "Tt":
            raise NoAnswer("is stopped: it tells its stacks when it goes on (SIGCONT)")
        os.ftruncate(self._file, 0)
        self._blocked = self._blocked_in()
        try:
            signal.pidfd_send_signal(self._pidfd, self._signum)
        except ProcessLookupError:
            raise NoAnswer("has ended") from None

    def _lock(self, end: float) -> None:
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise NoAnswer("is being asked by another program") from None
            time.sleep(PAUSE)

    def answer(self, end: float) -> str:
        """The text; after ask(), once.

        :param end: until when to wait, monotonic seconds.
        :raises NoAnswer: nothing has come.
        """
        size = -1
        complete = False
        while not complete and time.monotonic() < end and not self._has_ended():
            time.sleep(PAUSE)
            before, size = size, os.fstat(self._file).st_size
            complete = size > 0 and size == before and self._handled()
        text = os.pread(self._file, LONGEST, 0).decode(errors="replace")
        with contextlib.suppress(OSError):  # its memory is given back; the next one does it, too
            os.ftruncate(self._file, 0)
        if not text:
            raise NoAnswer("has ended" if self._has_ended() else "does not answer")
        if not complete:
            text = text.removesuffix("\n") + "\n  (the rest has not come)\n"
        return text

    def _handled(self) -> bool:
        """Whether the handler, which has begun, has returned: while it runs, its thread blocks
        the signal."""
        pending = masks(f"/proc/{self._pid}/status").get("ShdPnd", 0)
        return not pending >> (self._signum - 1) & 1 and self._blocked_in() <= self._blocked

    def _blocked_in(self) -> set[str]:
        """Threads that block the signal."""
        threads: list[str] = []
        with contextlib.suppress(OSError):
            threads = os.listdir(f"/proc/{self._pid}/task")
        return {
            thread
            for thread in threads
            if masks(f"/proc/{self._pid}/task/{thread}/status").get("SigBlk", 0)
            >> (self._signum - 1)
            & 1
        }

    def _has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
