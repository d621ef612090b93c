"""Another thread forks, or starts a pool of its own, while a pool starts, or ends."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings

import pytest

import tasks
from celery_pool import StartError, TaskPool
from celery_pool.host import forkguard, starting
from processes import in_forked_child
from support import DEADLINE, Background, Gate, took


def still_open(fds):
    return [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]


@pytest.fixture
def unraisable(monkeypatch):
    """What hooks of a fork raise; in the child as well."""
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(repr(args.exc_value)))
    return told


def test_a_fork_while_a_pool_ends(pool, unraisable):
    """Just when its selector is closed and it has not ended yet."""
    others = [pool(1) for _ in range(3)]
    fds = {fd for other in others for worker in other._supervisor.roster for fd in worker.fds()}
    assert len(still_open(fds)) == len(fds) > 0
    p = pool(1)
    selector = p._supervisor._selector
    seen = []

    def close(really=selector.close):
        really()
        seen.append(in_forked_child(lambda: (still_open(fds), unraisable)))

    selector.close = close
    p.terminate()
    del selector.close
    assert seen == [("returned", ([], []))]
    assert all(other.ready for other in others)


def test_an_owner_that_fails_hinders_no_other(unraisable):
    class Owner:
        def __init__(self, fds):
            self.fds = fds

        def owned_fds(self):
            if self.fds is None:
                raise LookupError("defect")
            return self.fds

    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    owners = [Owner({fd}) for fd in fds]
    owners.insert(1, Owner(None))
    for owner in owners:
        forkguard.guard(owner)

    def child():
        left = still_open(fds)
        # by now they may be somebody else's: its own child does not close them once more
        again = [os.open(os.devnull, os.O_RDONLY) for _ in fds]
        grandchild = in_forked_child(lambda: [os.fstat(fd).st_rdev for fd in again])
        return left, unraisable, grandchild[0]

    assert in_forked_child(child) == ("returned", ([], ["LookupError('defect')"], "returned"))
    for fd in fds:
        os.close(fd)


class SlowFinder:
    """An import of `name` takes until it is told to go on; there is no such module."""

    def __init__(self, name):
        self.name = name
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.slow = False

    def find_spec(self, name, path=None, target=None):
        if name == self.name and self.slow:
            self.entered.set()
            assert self.go_on.wait(DEADLINE)


def one_task(start_timeout: float) -> int:
    with TaskPool(1, context="fork", start_timeout=start_timeout) as p:
        return p.apply_async(os.getpid).get(DEADLINE)


def test_a_template_needs_no_lock_that_another_start_holds(monkeypatch):
    """One start is about to fork when the other looks for setproctitle: the lock of that import
    would be locked in the template for ever."""
    finder = SlowFinder("setproctitle")
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "setproctitle", raising=False)
    others = []

    def start(process, really=starting.start):
        monkeypatch.setattr(starting, "start", really)
        finder.slow = True
        others.append(Background(one_task, 60))
        finder.entered.wait(0.3)  # it comes there only if it does not wait for us
        really(process)
        finder.slow = False
        finder.go_on.set()

    monkeypatch.setattr(starting, "start", start)
    assert one_task(5) != others[0].result()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_starts_in_two_threads():
    def start_and_end():
        for _ in range(2500):
            p = TaskPool(1, context="fork", start_timeout=20)
            p.run()
            p.terminate()

    threads = [Background(start_and_end) for _ in range(2)]
    for thread in threads:
        thread.result(280)


def test_a_child_forked_during_a_start_does_not_hold_the_templates_end(monkeypatch, gate):
    """Else nobody would see that the template has died."""
    children = []

    def start(process, really=starting.start):
        fork_in_a_thread = Background(lambda: children.append(fork_until(gate)))
        fork_in_a_thread.result()
        return really(process)

    monkeypatch.setattr(starting, "start", start)
    p = TaskPool(
        1, context="fork", template_initializer=os._exit, template_initargs=(3,), start_timeout=60
    )
    begin = time.monotonic()
    with pytest.raises(StartError, match="template process died"):
        p.run()
    took(begin, 5)
    gate.open()
    for child in children:
        os.waitpid(child, 0)


def fork_until(gate: Gate) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            tasks.wait_for_file(gate.path)
        finally:
            os._exit(0)
    return child
