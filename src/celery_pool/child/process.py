"""A worker process as multiprocessing sees it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import popen_fork, util
from multiprocessing.context import ForkProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Since Python 3.13 multiprocessing's children run what they have registered there.
_RUNS_ATEXIT = hasattr(popen_fork, "atexit")


class Forker(ForkProcess):
    """Forks workers without what multiprocessing does for each process that it starts: two
    pipes, a look at all other children, a new /dev/null. Most of what a worker costs is the
    memory that it touches. What tasks see of multiprocessing is what they would see in a
    worker of its own pool.

    Made once, in the template. Each child is the process that this object is about.

    :param target: the body of a worker.
    """

    _start_method = None  # type: ignore[assignment]  # the template's, which is the pool's

    def __init__(self, target: Callable[..., object]) -> None:
        super().__init__(target=target)
        util._flush_std_streams()  # type: ignore[attr-defined]  # or each child would
        *self._parents, _ = multiprocessing.current_process()._identity
        self._stdin = sys.stdin
        self._alive, ours = os.pipe()  # readable when the template is dead
        self.fds = [ours]  # for the child to close

    def fork(self, index: int, name: str, *args: Any) -> int:
        """Forks a worker; its pid.

        :param index: its place among the workers: multiprocessing counts them from 1.
        :param args: for the target.
        """
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            self._name = name
            self._identity = (*self._parents, index + 1)
            self._args = args
            if _RUNS_ATEXIT:
                atexit._clear()
                atexit.register(util._exit_function)  # type: ignore[attr-defined]
            sys.stdin = None  # nothing to be replaced: see run()
            code = self._bootstrap(parent_sentinel=self._alive)  # type: ignore[attr-defined]
        finally:
            if _RUNS_ATEXIT:
                atexit._run_exitfuncs()
            os._exit(code)

    def run(self) -> None:
        sys.stdin = self._stdin  # the template's, that is /dev/null
        super().run()
