"""`stopping()`: a command that only waits hears of each signal."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from celery_pool.cli.onlooking import stopping
from support import DEADLINE


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait(signum):
    before = signal.getsignal(signum)
    with stopping() as stop:
        assert not stop.wait(0)
        assert not stop.is_set()
        os.kill(os.getpid(), signum)
        assert stop.wait(DEADLINE)
        assert stop.is_set()
    assert signal.getsignal(signum) is before


def test_also_one_that_another_thread_has_got():
    """Its handler runs in the main thread, which nothing but the wait can wake up."""
    with stopping() as stop:
        entered = threading.Event()

        def send():
            entered.wait(DEADLINE)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

        sender = threading.Thread(target=send)
        sender.start()
        entered.set()
        assert stop.wait(DEADLINE)
        assert stop.is_set()
        sender.join(DEADLINE)


def test_what_was_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop.wait(0)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
