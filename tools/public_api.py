#!/usr/bin/env python3
"""Prints every public name of celery_pool with its signature and docstring.

Two states of the sources have the same API if it prints the same for both:

    tools/public_api.py > before.txt; ...; tools/public_api.py | diff before.txt -
"""

from __future__ import annotations

import importlib
import inspect
import types

MODULES = (
    "celery_pool",
    "celery_pool.aio",
    "celery_pool.einfo",
    "celery_pool.errors",
    "celery_pool.ext.joblib",
    "celery_pool.options",
)


def signature(value: object) -> str:
    try:
        return str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


def describe(path: str, value: object) -> None:
    print(f"{path}{signature(value)}: {type(value).__name__}")
    if isinstance(value, type):
        print(f"    bases {', '.join(base.__name__ for base in value.__mro__[1:])}")
    elif not callable(value) and not isinstance(value, property):
        print(f"    {value!r}")
    for line in (inspect.getdoc(value) or "").splitlines():
        print(f"    | {line}")
    if not isinstance(value, type):
        return
    for name in sorted(dir(value)):
        member = inspect.getattr_static(value, name)
        inherited = any(
            base.__module__.split(".")[0] not in {"celery_pool", "_poolcore"}
            for base in value.__mro__
            if name in vars(base)
        )
        if name == "__init__" or not name.startswith("_"):
            if isinstance(member, property | types.GetSetDescriptorType):
                describe(f"{path}.{name}", property(doc=member.__doc__))
            elif not inherited:
                describe(f"{path}.{name}", getattr(value, name))
            else:
                print(f"{path}.{name}: inherited")


def main() -> None:
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        print(f"# {module_name}")
        for line in (inspect.getdoc(module) or "").splitlines():
            print(f"    | {line}")
        public = getattr(module, "__all__", None)
        for name in sorted(public or (n for n in vars(module) if not n.startswith("_"))):
            describe(f"{module_name}.{name}", getattr(module, name))


if __name__ == "__main__":
    main()
