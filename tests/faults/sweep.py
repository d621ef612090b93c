"""Every system call may fail: a sweep. Lets the n-th use of a call fail in one kind of process,
while a pool starts, replaces a worker, carries a large payload, makes its descriptor, ends; n goes
up until nothing fails any more. After each a clear error or success, nothing is left behind, and
the pool runs (again).

    LD_PRELOAD=failing_calls.so FAILING_CALLS=page \\
        python tests/faults/sweep.py failing_calls.so --method fork --role parent

Prints what happened in each case, and the defects; `test_sweep.py` builds and runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import faulthandler
import os
import re
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import tasks
from celery_pool import CrashLoopError, ResultDecodingError, StartError, TaskPool
from guards import Belongings, adopt_orphans, leftovers, wait_until
from support import DEADLINE, Log

ROLES = ("parent", "template", "worker")
CALLS = {
    "pipe2": errno.EMFILE,
    "eventfd": errno.EMFILE,
    "memfd_create": errno.EMFILE,
    "socketpair": errno.EMFILE,
    "epoll_create1": errno.EMFILE,
    "pidfd_open": errno.EMFILE,
    "epoll_ctl": errno.ENOMEM,
    "ftruncate": errno.ENOMEM,
    "mmap": errno.ENOMEM,
    "sendmsg": errno.ENOMEM,
    "fcntl": errno.ENOMEM,
    "ioctl": errno.ENOMEM,
    "pwrite": errno.ENOSPC,
    "fork": errno.EAGAIN,
    "pthread_create": errno.EAGAIN,
}
#: What users may see.
CLEAR = (OSError, StartError, MemoryError, RuntimeError, ResultDecodingError)
PAYLOAD = bytes(range(256)) * (12 << 10)
#: Seconds after which a case hangs.
HANGS = 20

Armed = Callable[[], contextlib.AbstractContextManager[None]]


# ---- the phases: each gets a pool of two and lets the call fail where that is its subject ----


def during_run(pool: TaskPool, armed: Armed) -> None:
    with armed():
        pool.run()


def during_replacement(pool: TaskPool, armed: Armed) -> None:
    pool.run()
    before = pool.get_worker_pids()
    with armed():
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: before[0] not in pool.get_worker_pids() and len(pool.get_worker_pids()) == 2,
            DEADLINE,
            "a replacement",
        )
        works(pool)


def during_payloads(pool: TaskPool, armed: Armed) -> None:
    """The second time the extents are used again; that an earlier one failed is no reason."""
    pool.run()
    with armed(), contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.callback(carry, pool)
    carry(pool)


def during_fileno(pool: TaskPool, armed: Armed) -> None:
    pool.run()
    with armed():
        pool.fileno()


def during_renewal(pool: TaskPool, armed: Armed) -> None:
    pool.run()
    before = set(pool.get_worker_pids())
    with armed():
        pool.renew()
        wait_until(lambda: not before & set(pool.get_worker_pids()), DEADLINE, "new workers")
        works(pool)


def during_end(pool: TaskPool, armed: Armed) -> None:
    pool.run()
    works(pool)
    with armed():
        pool.close()
        assert pool.join(DEADLINE)


def during_terminate(pool: TaskPool, armed: Armed) -> None:
    pool.run()
    with armed():
        pool.terminate()


PHASES = {
    "run": during_run,
    "replacement": during_replacement,
    "payloads": during_payloads,
    "fileno": during_fileno,
    "renewal": during_renewal,
    "end": during_end,
    "terminate": during_terminate,
}


def carry(pool: TaskPool) -> None:
    assert pool.apply_async(tasks.same, (PAYLOAD,)).get(DEADLINE) == PAYLOAD


def works(pool: TaskPool) -> None:
    results = [pool.apply_async(tasks.same, (n,)) for n in range(4)]
    assert [result.get(DEADLINE) for result in results] == list(range(4))


# ---- the sweep ----


class Sweep:
    def __init__(self, library: str, method: str, role: str) -> None:
        self.method = method
        self.role = role
        self.defects: list[str] = []
        self.cases = 0
        self._lib = ctypes.CDLL(library)
        self._lib.arm.restype = self._lib.disarm.restype = ctypes.c_bool
        self._lib.used.restype = ctypes.c_long
        self._lib.arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int]
        self._fired = False
        self._raised: list[str] = []  # where nobody catches it
        sys.unraisablehook = self._unraisable
        threading.excepthook = self._unraisable

    def _unraisable(self, args: Any) -> None:
        self._raised.append(f"{args.exc_type.__name__}: {args.exc_value}")

    @contextlib.contextmanager
    def _armed(self, call: str, n: int) -> Iterator[None]:
        assert self._lib.arm(call.encode(), ROLES.index(self.role), n, CALLS.get(call, 0))
        try:
            yield
        finally:
            self._fired = self._lib.disarm()

    def run(self, phases: list[str], errors: IO[bytes]) -> None:
        for phase in phases:
            assert not self._case(phase, "", 0, errors)
            for call in [name for name in CALLS if self._lib.used(name.encode())]:
                n = 1
                while self._case(phase, call, n, errors):
                    n += 1

    def _case(self, phase: str, call: str, n: int, errors: IO[bytes]) -> bool:
        """Whether the call failed."""
        begin = time.monotonic()
        faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.stdout)
        print(f"{phase}: {call} {n} ", end="", flush=True)
        self._fired = False
        self._raised.clear()
        errors.truncate(0)
        before = Belongings.now()
        log = Log()
        outcome, defects = self._outcome(phase, call, n, log)
        errors.flush()
        errors.seek(0)
        written = errors.read().decode()
        if self._fired:
            self.cases += 1
            defects += leftovers(before, 3.0)
            defects += [f"raised: {raised}" for raised in self._raised]
            # the interpreter and the fork server may say something of their own
            if self.role != "worker" and re.search(r'File "\S*celery_pool/\w+/\w+\.py"', written):
                defects.append(f"written: {written}")
            self.defects += [f"{phase}, {call} {n}: {outcome}: {defect}" for defect in defects]
            print(f"{outcome} ({time.monotonic() - begin:.2f} s)", *defects, sep="\n    ")
        else:
            print("nothing fails", written)
            assert not defects, (defects, outcome)
        return self._fired

    def _outcome(self, phase: str, call: str, n: int, log: Log) -> tuple[str, list[str]]:
        callbacks_in = "caller" if phase == "fileno" else "any"
        pool = TaskPool(
            2, logger=log.logger, context=self.method, start_timeout=10, callbacks_in=callbacks_in
        )
        outcome, defects = "succeeded", []
        try:
            PHASES[phase](pool, lambda: self._armed(call, n))
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            if not isinstance(error, CLEAR) or isinstance(error, CrashLoopError) or not str(error):
                defects.append("is not clear")
        if log.messages:
            outcome += f" (logged: {'; '.join(log.messages)})"
        try:
            if pool._supervisor is None or pool._supervisor.has_ended:
                pool.run()
            works(pool)
            wait_until(lambda: len(pool.get_worker_pids()) == 2, DEADLINE, "two workers")
            if phase == "fileno":
                result = pool.apply_async(tasks.same, (1,))
                assert select.select([pool.fileno()], [], [], DEADLINE)[0]
                assert result.get(DEADLINE) == 1
        except BaseException as error:
            defects.append(f"afterwards {type(error).__name__}: {error}")
        pool.terminate()
        return outcome, defects


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--method", default="fork")
    parser.add_argument("--role", choices=ROLES, default="parent")
    parser.add_argument("--phase", choices=PHASES, nargs="*", default=list(PHASES))
    options = parser.parse_args()
    adopt_orphans()
    sweep = Sweep(options.library, options.method, options.role)
    with tempfile.TemporaryFile("ab+") as errors:
        stderr = os.dup(2)
        os.dup2(errors.fileno(), 2)
        try:
            with TaskPool(1, context=options.method):  # what stays: fork server, resource tracker
                pass
            sweep.run(options.phase, errors)
        finally:
            os.dup2(stderr, 2)
            faulthandler.cancel_dump_traceback_later()
            errors.seek(0)
            sys.stderr.write(errors.read().decode())
    print(f"{sweep.cases} calls failed, {len(sweep.defects)} defects", *sweep.defects, sep="\n")
    return bool(sweep.defects) or not sweep.cases


if __name__ == "__main__":
    sys.exit(main())
