"""From MODULE:FUNCTION to the function."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from .usage import UsageError

Function = Callable[..., Any]


def make_current_directory_importable() -> None:
    """As `python -m` does, and like it not with `-P` or PYTHONSAFEPATH."""
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path[:1]):
        sys.path.insert(0, os.getcwd())


def load(name: str) -> Function:
    """Imports the module and returns the function; UsageError says what is wrong with the name."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"{name!r} is not of the form MODULE:FUNCTION")
    if module_name.endswith(".py") or os.sep in module_name:
        raise UsageError(
            f"{module_name!r} is a file; MODULE is a name to import, like 'package.module'"
        )
    module = _import(module_name)
    try:
        function = attrgetter(path)(module)
    except AttributeError:
        raise UsageError(f"module {module_name!r} has no {path!r}") from None
    if not callable(function):
        raise UsageError(f"{name!r} is not callable, it is of type {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{name!r} is a coroutine function; a plain function is needed")
    return function  # type: ignore[no-any-return]


def _import(name: str) -> object:
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # what it prints must not stand among the results
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {name!r}") from None
        raise UsageError(_why_not(name, error)) from error
    except (Exception, SystemExit) as error:
        raise UsageError(_why_not(name, error)) from error


def _why_not(name: str, error: BaseException) -> str:
    text = " ".join(traceback.format_exception_only(error)[-1].split())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename not in _OWN_FILES
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"module {name!r} cannot be imported: {text}{place}"


_OWN_FILES = (__file__, importlib.__file__)
