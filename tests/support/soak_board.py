"""What the soak and its workers share: a file that all of them have mapped."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

MOST_TASKS = 1 << 26
SEATS = 64
#: Words of 8 bytes: how many tasks may run at a time; whether what initializers need is down;
#: the trap for a worker that starts (0: none, 1: set, else the pid that is in it).
_ALLOWED, _DOWN, _TRAP = range(3)
#: After them who sits where: number of the task << PID_BITS | pid of the worker, or 0.
_FIRST_SEAT = 8
_PID_BITS = 22
#: After the words one byte a task: how often it was begun.
_MARKS = 8 * (_FIRST_SEAT + SEATS)


class Board:
    """One process' view. Words are written and read whole, as they are aligned."""

    @staticmethod
    def create(path: str) -> Board:
        Path(path).touch()
        os.truncate(path, _MARKS + MOST_TASKS)
        return Board(path)

    def __init__(self, path: str) -> None:
        self._complaints = f"{path}.complaints"
        fd = os.open(path, os.O_RDWR)
        try:
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self._words = memoryview(self._map)[:_MARKS].cast("Q")

    def close(self) -> None:
        self._words.release()
        self._map.close()

    # ---- of the program ----

    @property
    def allowed(self) -> int:
        return self._words[_ALLOWED]

    @allowed.setter
    def allowed(self, tasks: int) -> None:
        self._words[_ALLOWED] = tasks

    @property
    def down(self) -> bool:
        return bool(self._words[_DOWN])

    @down.setter
    def down(self, down: bool) -> None:
        self._words[_DOWN] = down

    @property
    def trapped(self) -> int:
        """The pid of the worker in the trap; 0: of none."""
        value = self._words[_TRAP]
        return 0 if value == 1 else value

    def set_trap(self, trap: bool) -> None:
        """For the next initializer; or whoever is in it goes on."""
        self._words[_TRAP] = trap

    def marks(self, tasks: int) -> bytes:
        """How often each of the first `tasks` was begun."""
        return self._map[_MARKS : _MARKS + tasks]

    def complaints(self) -> list[str]:
        path = Path(self._complaints)
        return path.read_text().splitlines() if path.exists() else []

    # ---- of workers ----

    def complain(self, text: str) -> None:
        with open(self._complaints, "a") as file:
            file.write(f"{text}\n")

    def enter_trap(self) -> bool:
        """Whether this process is in it now."""
        if self._words[_TRAP] != 1:
            return False
        self._words[_TRAP] = os.getpid()
        return True

    def in_trap(self) -> bool:
        return self._words[_TRAP] == os.getpid()

    def begin(self, number: int) -> None:
        self._map[_MARKS + number] = min(self._map[_MARKS + number] + 1, 255)

    def sit(self, seat: int, number: int) -> None:
        """Begins to run a task; complains if somebody else's runs in this seat, or too many do."""
        last = self._words[_FIRST_SEAT + seat]
        mine = number << _PID_BITS | os.getpid()
        if last and self._runs(last) and self._words[_FIRST_SEAT + seat] == last:
            self.complain(f"tasks {number} and {last >> _PID_BITS} run at once in seat {seat}")
        self._words[_FIRST_SEAT + seat] = mine
        allowed = self.allowed
        taken = self._taken()
        if len(taken) > allowed:
            # all of which at one moment, between these two looks
            running = {sitter for sitter in taken if self._runs(sitter)}
            running &= set(self._taken())
            if len(running) > max(allowed, self.allowed):
                self.complain(f"{len(running)} tasks run at once, {allowed} may")

    def rise(self, seat: int) -> None:
        self._words[_FIRST_SEAT + seat] = 0

    def _taken(self) -> list[int]:
        return [sitter for sitter in self._words[_FIRST_SEAT:].tolist() if sitter]

    @staticmethod
    def _runs(sitter: int) -> bool:
        """Whether its process lives: who was killed stays seated."""
        pid = sitter & ((1 << _PID_BITS) - 1)
        if pid == os.getpid():
            return True
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            return stat.rpartition(")")[2].split()[0] not in "ZX"
        return False
