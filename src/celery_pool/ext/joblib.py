"""A parallel backend for joblib, and so for scikit-learn.

::

    import joblib
    from celery_pool.ext.joblib import register

    register()
    with joblib.parallel_config("celery_pool", n_jobs=4):
        joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(100))

Functions and arguments are pickled by cloudpickle, so lambdas, closures and
functions of ``__main__`` will do. A call of ``Parallel``
starts workers of its own and ends them; ``with Parallel(...) as parallel`` keeps
them for several calls.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Unpack, cast

import cloudpickle
import joblib
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from ..errors import PoolError
from ..options import WorkerOptions, check_names
from ..taskpool import AsyncResult, TaskPool

if TYPE_CHECKING:
    from .. import Health, Statistics, WorkerInfo

#: How long workers may take to leave after the last task, in seconds.
LEAVE_TIMEOUT = 5.0


class CeleryPoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's backend ``"celery_pool"``; see :func:`register`.

    :param inner_max_num_threads: the pool's ``blas_threads``; default: ``"auto"``.
    :param logger: as :class:`~celery_pool.TaskPool`'s.
    :param pool_options: :class:`~celery_pool.PoolOptions`, for instance ``context``
        (default: joblib's, which is multiprocessing's), ``timeout`` (of a batch),
        ``max_memory_per_child``; but for `processes` and `callbacks_in`, which joblib decides.
        ``Parallel`` takes them as well, but for ``timeout``, which is its own, and ``context``.
    """

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    supports_inner_max_num_threads = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        logger: logging.Logger | None = None,
        **pool_options: Unpack[WorkerOptions],
    ) -> None:
        check_names(pool_options, WorkerOptions.__optional_keys__, type(self))
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._logger = logger
        self._pool_options = pool_options
        self._pool: TaskPool | None = None
        self._n_jobs = 1
        self._options: WorkerOptions = {}
        self.parallel: Any = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` means; -1: one a usable CPU, -2: one less ..."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs != 1:
            reason = self._why_sequential()
            if reason is not None:
                warnings.warn(f"{reason}, setting n_jobs=1", stacklevel=3)
                return 1
        if n_jobs < 0:
            n_jobs = max(joblib.cpu_count() + 1 + n_jobs, 1)
        return n_jobs

    def _why_sequential(self) -> str | None:
        if self.nesting_level and not self.in_main_thread():
            return "celery_pool-backed parallel loops cannot be nested below threads"
        return None

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        verbose: int = 0,
        max_nbytes: int | None = None,
        temp_folder: str | None = None,
        mmap_mode: str | None = None,
        context: Any = None,
        **pool_options: Any,
    ) -> int:
        """Starts the workers; returns how many. joblib's settings for memory maps have no
        use here.

        :param pool_options: what ``Parallel`` was given besides; they go before the
            constructor's.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._n_jobs = n_jobs
        given = {"context": context, **self._pool_options, **pool_options}
        self._options = cast(WorkerOptions, given)  # TaskPool checks the names
        self._start()
        return n_jobs

    def _start(self) -> None:
        options: WorkerOptions = {
            "blas_threads": self.inner_max_num_threads or "auto",
            "leave_timeout": LEAVE_TIMEOUT,
            "pickler": cloudpickle,
            **self._options,
        }
        if "template_initializer" not in options:
            # once for all workers, and when NumPy, which it loads, is told how many threads
            options["template_initializer"] = importlib.import_module
            options["template_initargs"] = ("joblib",)
        # joblib bounds what it dispatches (pre_dispatch) by itself, and dispatches from
        # callbacks, with a lock held: so no limit, and no callbacks in its own threads
        pool = TaskPool(
            None, None, self._logger, processes=self._n_jobs, callbacks_in="reaper", **options
        )
        pool.run()
        self._pool = pool

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], None]
    ) -> AsyncResult[Any] | None:
        """Runs ``func()`` in a worker. What goes wrong is the task's outcome: joblib submits
        in callbacks, too, where nobody would see it raised."""
        pool = self._pool
        if pool is None:  # aborted meanwhile
            return None
        try:
            return pool.apply_async(func, (), None, _succeeded, _failed, None, callback)
        except PoolError as error:
            callback((False, error))
        except Exception as error:
            unpickled = PicklingError("could not pickle the task to send to the workers")
            unpickled.__cause__ = error
            callback((False, unpickled))
        return None

    def apply_async(
        self, func: Callable[[], Any], callback: Callable[[Any], None]
    ) -> AsyncResult[Any] | None:
        """What joblib before 1.5 calls it."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: tuple[bool, Any]) -> Any:
        success, outcome = out
        if success:
            return outcome
        raise outcome

    def get_worker_pids(self) -> list[int]:
        """The process ids of the workers; none outside of a call of ``Parallel``."""
        return [] if self._pool is None else self._pool.get_worker_pids()

    def workers(self) -> list[WorkerInfo]:
        """Each worker at this moment; none outside of a call of ``Parallel``."""
        return [] if self._pool is None else self._pool.workers()

    def healthy(self) -> Health | None:
        """Whether the pool does what it is for, and why not; None: there is no pool."""
        return None if self._pool is None else self._pool.healthy()

    def statistics(self, *, functions: bool = False) -> Statistics | None:
        """A snapshot of the pool's counters, a batch being one task; None: there is no pool."""
        return None if self._pool is None else self._pool.statistics(functions=functions)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kills what runs. `ensure_ready`: with new workers."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.terminate()
        self.reset_batch_stats()
        if ensure_ready:
            self._start()

    def terminate(self) -> None:
        """Ends the workers; what has been left undone is not done any more."""
        pool, self._pool = self._pool, None
        if pool is not None:
            if pool.statistics().in_flight == 0:
                pool.close()
                pool.join(2 * LEAVE_TIMEOUT)
            pool.terminate()
        self.reset_batch_stats()


def register(name: str = "celery_pool", make_default: bool = False) -> None:
    """Makes the backend known to joblib under `name`; `make_default`: for every
    ``Parallel`` that names none."""
    joblib.register_parallel_backend(name, CeleryPoolBackend, make_default=make_default)


def _succeeded(result: Any, callback: Callable[[Any], None]) -> None:
    callback((True, result))


def _failed(error: BaseException, callback: Callable[[Any], None]) -> None:
    callback((False, error))


__all__ = ["CeleryPoolBackend", "register"]
