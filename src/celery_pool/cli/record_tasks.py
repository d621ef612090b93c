"""What runs in the workers: a record (bytes) in, one JSON document (bytes) out.

Decoding and encoding are done here and not in the parent: they run in parallel, and a record that
cannot be decoded or a result that is not JSON fails its task alone, like an error of the function
itself.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from . import function

_function: function.Function = repr  # replaced by start()

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_to_ascii_json = json.JSONEncoder(allow_nan=False).encode
_from_json = json.JSONDecoder().decode


def start(name: str) -> None:
    """The initializer: loads the function and keeps the worker's hands off the standard streams.

    Standard input belongs to the parent, and standard output to the results.
    """
    global _function
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _function = function.load(name)


# The tasks: one target for each kind of record.


def on_line(record: bytes) -> bytes:
    return _apply(record.removesuffix(b"\r").decode())


def on_text(record: bytes) -> bytes:
    return _apply(record.decode())


def on_path(record: bytes) -> bytes:
    return _apply(os.fsdecode(record))


def on_document(record: bytes) -> bytes:
    if not record or record.isspace():
        return b""  # a blank line is no document
    return _apply(_from_json(record.decode()))


def on_unreadable(error: OSError) -> NoReturn:
    """The task for a record that could not be read: takes its place in the order, and fails."""
    raise error


def _apply(argument: Any) -> bytes:
    value = _function(argument)
    text = _to_json(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of an undecodable path
        return _to_ascii_json(value).encode()
