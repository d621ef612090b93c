"""A worker's shield against signals that its process group gets; what tasks start has none."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal wraps its functions in enums, slowly
import os
import signal
import sys
import threading

from .. import _poolcore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def raise_shield(shield: tuple[int, ...], owner: int) -> None:
    """From now on these signals do not end this process, unless it sends them itself, or the
    process `owner` does."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, shield)
    for number in shield:
        _signal.signal(number, default_handler(number))  # as tasks see it
        _poolcore.shield(number, owner)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    # a child's is lowered before a signal can be lost to it
    before_fork = threading.local()

    def hold_back() -> None:
        before_fork.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, shield)

    def go_on() -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before_fork.mask)

    def lower() -> None:
        for number in shield:
            if _poolcore.is_shielded(number):
                _signal.signal(number, _signal.getsignal(number))
        try:
            go_on()
        except BaseException as error:
            # a handler's, of a signal that was held back; Python ignores what a fork hook raises
            leave(error)

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=lower)


def raise_shield_again(shield: tuple[int, ...], owner: int) -> None:
    """Over the handlers that an initializer has set: they get what the process `owner` sends, and
    not what the group gets. Signals that it ignores stay so."""
    for number in shield:
        handler = _signal.getsignal(number)
        if not _poolcore.is_shielded(number) and handler != _signal.SIG_IGN:
            _poolcore.shield(number, owner, handler not in (_signal.SIG_DFL, None))


def leave(error: BaseException) -> None:
    """Ends this process as if nobody had caught `error`."""
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
    os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def default_handler(number: int) -> Any:
    """As it is in a new Python program."""
    return signal.default_int_handler if number == signal.SIGINT else _signal.SIG_DFL
