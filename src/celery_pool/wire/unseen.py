"""Failures that nobody has looked at, told when their results go."""

from __future__ import annotations

import pickle

from ..einfo import traceback_text
from .remote import described_task, full_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Hashable
    from typing import Any


def tell(
    logger: logging.Logger,
    tid: Hashable,
    target: Callable[..., Any] | None,
    pid: int | None,
    outcome: bytes | BaseException,
) -> None:
    """Called by a destructor, so no code of the user's runs but the logger's.

    :param target: None: it has travelled with its task.
    :param outcome: the exception, or what remote.dump_error has made of it, of which only the
        texts are unpickled. A Ctrl-C, which whoever is at the terminal knows of, is not told.
    """
    if isinstance(outcome, BaseException):
        kind = full_name(type(outcome))
        text, traceback = str(outcome), traceback_text(outcome)
    else:
        kind, text, traceback, *_ = pickle.loads(outcome)
    if kind == "builtins.KeyboardInterrupt":
        return
    name = None if target is None else full_name(target)
    logger.error(
        "%s has failed and nobody has looked at its outcome: %s: %s\n%s",
        described_task(tid, target),
        kind.removeprefix("builtins."),
        text,
        traceback.rstrip(),
        extra={"event": "unseen", "tid": tid, "function": name, "pid": pid}
        | {"exitcode": None, "signal": None},
    )
