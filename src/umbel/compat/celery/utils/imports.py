"""Importing by name."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from umbel.app.definition import generated_name
from umbel.compat.helpers.imports import cwd_in_path, symbol_by_name

__all__ = (
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)


class NotAPackage(Exception):
    """A part of a module's name is a module, not a package."""


def qualname(obj: Any) -> str:
    """The dotted name of a class or function; of an object that of its class."""
    named = obj if "__name__" in dir(obj) else type(obj)
    name: str = named.__qualname__
    return name if "." in name else f"{named.__module__}.{name}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call what a path names."""
    return symbol_by_name(name)(*args, **kwargs)


def find_module(module: str, path: Any = None, imp: Callable[[str], Any] | None = None) -> Any:
    """Import a module, the working directory included in the search.

    Raises NotAPackage for ``celery.py``-like names: what stands before the dot is no package.
    """
    load = imp or importlib.import_module
    with cwd_in_path():
        try:
            return load(module)
        except ImportError:
            _refuse_modules_in(module, load)
            raise


def _refuse_modules_in(module: str, load: Callable[[str], Any]) -> None:
    parts = module.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        try:
            found = load(package)
        except ImportError:
            return
        if "__path__" not in dir(found):
            raise NotAPackage(package)


def import_from_cwd(module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
    """Import a module, the working directory included in the search."""
    with cwd_in_path():
        return (imp or importlib.import_module)(module, package=package)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], Any] | None = None) -> Any:
    """Import a module anew."""
    with cwd_in_path():
        return (reloader or importlib.reload)(module)


def module_file(module: Any) -> str:
    """The source file of a module."""
    return str(module.__file__).removesuffix("c")


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """The name of a task that was given none."""
    module = sys.modules.get(module_name or "__main__")
    return generated_name(app, name, module.__name__ if module is not None else module_name)


@cache
def load_extension_class_names(namespace: str) -> tuple[tuple[str, str], ...]:
    """Names and paths of the entry points of a group."""
    return tuple((entry.name, entry.value) for entry in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Names and classes of the entry points of a group; those that cannot be loaded are warned of."""
    for name, path in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(path)
        except (ImportError, SyntaxError) as error:
            warnings.warn(f"Cannot load {namespace} extension {path!r}: {error!r}", stacklevel=2)
        else:
            yield name, found
