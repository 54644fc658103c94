"""Names of a module that are imported when they are first used, or are not there yet."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["lazily"]


def lazily(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module: each name from the ``package.module:attribute`` that it stands for.

    What it gives raises ImportError for a name of Celery's whose part this version of Umbel does not have, and
    AttributeError for a name that Celery does not have either.
    """

    def find(name: str) -> Any:
        path = names.get(name)
        if path is None:
            return _submodule(module, name)
        place, _, attribute = path.partition(":")
        try:
            found: Any = importlib.import_module(place)
            for part in attribute.split(".") if attribute else ():
                found = getattr(found, part)
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("umbel"):
                raise  # a library that is not installed here: its own message says which
            raise ImportError(
                f"{module}.{name} is not in this version of Umbel ({path} is missing)", name=module
            ) from error
        setattr(sys.modules[module], name, found)
        return found

    return find


def _submodule(module: str, name: str) -> Any:
    """A package's module: Celery imports most of its own, so that programs find them without an import of theirs."""
    if "__path__" in vars(sys.modules[module]) and not name.startswith("_"):
        try:
            return importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{module}.{name}":
                raise
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
