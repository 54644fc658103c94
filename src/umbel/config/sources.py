"""Where settings come from: mappings, objects, modules, and paths that name one of these."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType

from umbel.errors import ImproperlyConfigured

__all__ = ["ObjectView", "import_path", "read_source", "source_from_environment"]

_UNSET = object()


class ObjectView(Mapping[str, object]):
    """The attributes of an object as a mapping: a module, a class, Django's settings.

    It is a view: what changes in the object is seen. Attributes that are no settings are not read.
    """

    def __init__(self, source: object) -> None:
        self.source = source

    def __getitem__(self, key: str) -> object:
        value: object = getattr(self.source, key, _UNSET)
        if value is _UNSET:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and hasattr(self.source, key)

    def __iter__(self) -> Iterator[str]:
        return (name for name in dir(self.source) if not name.startswith("__"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"ObjectView({self.source!r})"

    def is_helper(self, name: str) -> bool:
        """Tell whether ``name`` is code of the module (an import, a function, a class), or unreadable."""
        value: object = getattr(self.source, name, _UNSET)
        return value is _UNSET or isinstance(value, (ModuleType, FunctionType, BuiltinFunctionType, type))


def read_source(source: object, silent: bool = False) -> Mapping[str, object] | None:
    """Give the settings in a mapping, an object, or what a path names: ``module``, ``module.name``, ``module:name``.

    Returns:
        ``None`` if ``silent`` and the path names nothing that can be imported.

    Raises:
        ImportError: the module does not exist or cannot be imported, and not ``silent``.
        AttributeError: the module has no such attribute, and not ``silent``.
    """
    if isinstance(source, str):
        try:
            source = import_path(source)
        except (ImportError, AttributeError):
            if silent:
                return None
            raise
    return source if isinstance(source, Mapping) else ObjectView(source)


def source_from_environment(variable: str, silent: bool = False) -> str | None:
    """Give the module that an environment variable names.

    Raises:
        ImproperlyConfigured: the variable is not set or empty, and not ``silent``.
    """
    name = os.environ.get(variable)
    if not name and not silent:
        raise ImproperlyConfigured(
            f"The environment variable {variable!r} is not set, so there is no configuration to load. "
            f"Set it to the name of a module: {variable}=proj.celeryconfig"
        )
    return name or None


def import_path(path: str) -> object:
    """Import a module or something in one, the working directory included in the search.

    Raises:
        ImportError: there is no such module, or importing it failed.
        AttributeError: the module has no such attribute.
    """
    with _working_directory_on_path():
        if ":" in path:
            return _attribute(*path.split(":", 1))
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if path.endswith(".py"):
                message = f"{path!r} is a file name; name the module without '.py': {path[:-3]!r}"
                raise ModuleNotFoundError(message, name=path) from error
            parent, _, attribute = path.rpartition(".")
            # A module that exists but imports another that does not: that error is the one to show.
            if not parent or error.name not in _with_parents(path):
                raise
            return _attribute(parent, attribute)


def _attribute(module: str, name: str) -> object:
    value: object = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _with_parents(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[: count + 1]) for count in range(len(parts))}


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    directory = os.getcwd()  # noqa: PTH109 - pathlib costs milliseconds of every start
    if directory in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)
