"""Importing by name, as kombu and celery both show it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["cwd_in_path", "symbol_by_name"]


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """What a path such as ``celery.concurrency.prefork.TaskPool`` or ``module:name`` names; anything but text as it is.

    ``default`` is given where it cannot be imported; otherwise that raises ImportError or AttributeError.
    """
    if not isinstance(name, str):
        return name
    path = (aliases or {}).get(name) or name
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(sep)
    if not module_name:
        module_name, attribute = attribute, ""
    try:
        module = (imp or importlib.import_module)(
            module_name, package=package if module_name.startswith(".") else None, **kwargs
        )
        found: Any = module
        for part in attribute.split(".") if attribute else ():
            found = getattr(found, part)
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default
    return found


@contextmanager
def cwd_in_path() -> Iterator[str | None]:
    """Search modules in the working directory too."""
    try:
        directory = os.getcwd()  # noqa: PTH109 - as Celery's text
    except FileNotFoundError:
        directory = ""
    if not directory or directory in sys.path:
        yield None
        return
    sys.path.insert(0, directory)
    try:
        yield directory
    finally:
        if directory in sys.path:
            sys.path.remove(directory)
