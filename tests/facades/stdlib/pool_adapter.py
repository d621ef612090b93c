"""Pool as the standard library's tests want to see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from celery_pool import Pool
from support import is_gone


class Worker:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return not is_gone(self.pid)


class AdaptedPool(Pool):
    """With the private attributes that the tests use."""

    @property
    def _pool(self) -> list[Worker]:
        return [Worker(pid) for pid in self._tasks.get_worker_pids()]

    def _repopulate_pool(self) -> None:
        """Workers are replaced by themselves."""


@contextmanager
def instead_of_multiprocessing(script_helper: Any) -> Iterator[None]:
    """Tests that make `multiprocessing.Pool` get ours, also in a program of their own."""
    run = script_helper.assert_python_ok

    def run_with_ours(*args: str, **options: Any) -> Any:
        *flags, text = args
        replaced = text.replace("from multiprocessing import Pool", "from celery_pool import Pool")
        assert replaced != text
        # not isolated, so that the package is found wherever it is installed
        return run(*flags, replaced, __isolated=False, **options)

    with (
        mock.patch("multiprocessing.Pool", AdaptedPool),
        mock.patch.object(script_helper, "assert_python_ok", run_with_ours),
    ):
        yield
