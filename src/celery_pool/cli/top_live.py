"""The live view of `celery-pool top`, by rich (the extra `top`)."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..observe.figures import SORT_KEYS, PoolFigures, in_order
from . import top_text
from .top_command import Watch

KEYS = "s: sort by the next column   r: the other way round   p: pause   q: leave"
WIDE = 100  # columns of a terminal that has room for all of ours
STYLES = {"busy": "green", "idle": "dim", "corrupt": "red", "leaving": "yellow"}


def show(watch: Watch, interval: float, key: str) -> None:
    """Until the user leaves, or there is no pool any more.

    :param interval: seconds.
    """
    console = Console()
    view = View(console, key)
    view.found = watch.look()
    due = time.monotonic() + interval
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as keys,
        Live(view, console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.refresh()
            pressed = _pressed(keys, max(0.0, due - time.monotonic()))
            if pressed is None or not view.press(pressed):
                return
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                if not view.paused:
                    view.found = watch.look()


@contextlib.contextmanager
def _keys() -> Iterator[int]:
    """Standard input, which tells of each key at once."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _pressed(fd: int, timeout: float) -> str | None:
    """Keys, within so many seconds; None: there will be no more."""
    if not select.select([fd], [], [], timeout)[0]:
        return ""
    return os.read(fd, 64).decode(errors="replace") or None


class View:
    """What is on the screen."""

    def __init__(self, console: Console, key: str) -> None:
        self.found: list[PoolFigures] = []
        self.paused = False
        self._console = console
        self._key = key
        self._reverse = False

    def press(self, keys: str) -> bool:
        """Whether to go on."""
        for key in keys:
            if key == "q":
                return False
            if key == "p":
                self.paused = not self.paused
            elif key == "r":
                self._reverse = not self._reverse
            elif key == "s":
                order = [key for _, key in top_text.FUNCTION_COLUMNS if key in SORT_KEYS]
                self._key = order[(order.index(self._key) + 1) % len(order)]
        return True

    def __rich__(self) -> RenderableType:
        # what is left of the lines when each pool has its headings
        room = (self._console.height - 2) // max(1, len(self.found)) - 13
        parts: list[RenderableType] = []
        for one in self.found:
            parts += self._pool(one, max(3, room // 2))
        keys = "PAUSED   " * self.paused + KEYS
        return Group(*parts, Text(keys, style="reverse" if self.paused else "dim", no_wrap=True))

    def _pool(self, one: PoolFigures, most: int) -> list[RenderableType]:
        title, *counts = top_text.heading(one)
        after = [*top_text.ends(one.look.story), *top_text.recent(one.look.story, 3)]
        return [
            Text(title, style="bold", no_wrap=True, overflow="ellipsis"),
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in counts),
            self._functions(one, most),
            self._workers(one, most),
            *(Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in after),
            Text(),
        ]

    def _functions(self, one: PoolFigures, most: int) -> Table:
        mark = "▲" if self._reverse else "▼"
        narrow = self._console.width < WIDE  # then only what one can sort by
        columns = [
            (i, title + mark * (key == self._key))
            for i, (title, key) in enumerate(top_text.FUNCTION_COLUMNS)
            if key or not narrow
        ]
        table = _table(title for _, title in columns)
        lines = in_order(one.functions, self._key, self._reverse)
        for line in lines[:most]:
            cells = top_text.function_row(line)
            table.add_row(*(Text(cells[i]) for i, _ in columns))
        if len(lines) > most:
            table.add_row(Text(f"and {len(lines) - most} more", style="dim"))
        return table

    def _workers(self, one: PoolFigures, most: int) -> Table:
        table = _table(top_text.WORKER_COLUMNS)
        workers = one.look.workers
        if len(workers) > most:  # those that have been at it for longest
            workers = sorted(workers, key=lambda worker: -(worker.running_for or 0.0))
        for worker in workers[:most]:
            style = STYLES.get(worker.state, "")
            table.add_row(*map(Text, top_text.worker_row(worker)), style=style)
        if len(workers) > most:
            table.add_row("", "", Text(f"and {len(workers) - most} more", style="dim"))
        return table


def _table(titles: Iterator[str] | tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    for title in titles:
        if top_text.is_text(title.rstrip("▲▼")):
            table.add_column(title, no_wrap=True)
        else:  # on a narrow screen names get shorter first
            table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
    return table
