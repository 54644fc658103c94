"""The place in Python's import system where ``celery`` and ``kombu`` become Umbel."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Final

from umbel.errors import CeleryWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["AliasConflict", "install_as_celery", "is_installed"]

_HERE: Final = Path(__file__).resolve().parent
#: Taken over, whatever else is installed.
_TAKEN: Final = ("celery", "kombu")
#: Helpers of Celery that programs import too; a real one that is installed is as good and stays.
_LENT: Final = ("billiard", "vine")


class AliasConflict(ImportError):
    """A real Celery or kombu is in the way; the message says what to do."""


class _Finder(MetaPathFinder):
    """Finds the packages of these names in this folder; their submodules are found as any package's are."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        folder = _HERE / fullname
        return spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def is_installed() -> bool:
    """Whether ``import celery`` gives Umbel in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def install_as_celery() -> None:
    """Make ``import celery`` and ``import kombu`` give Umbel, for the rest of this process. Safe twice.

    Call it before anything imports Celery: first in the program, or in ``conftest.py``. Where Celery is installed too,
    a warning says which of the two is used.

    Raises:
        AliasConflict: the real Celery or kombu was imported already.
    """
    if is_installed():
        return
    for name in _TAKEN:
        _refuse_if_imported(name)
        _warn_if_installed(name)
    lent = [name for name in _LENT if not _really_installed(name)]
    sys.meta_path.insert(0, _Finder((*_TAKEN, *lent)))
    importlib.invalidate_caches()


def _refuse_if_imported(name: str) -> None:
    module = sys.modules.get(name)
    # The module of the distribution umbel-celery is being imported while it calls this.
    if module is not None and vars(module).get("__umbel_alias__") is None:
        place = vars(module).get("__file__", "an unknown place")
        raise AliasConflict(
            f"{name} was imported before umbel.install_as_celery() could take its place (from {place}); "
            "call it first, before anything that imports Celery"
        )


def _warn_if_installed(name: str) -> None:
    origin = _really_installed(name)
    if origin is not None:
        warnings.warn(
            f"both Umbel and {name} are installed ({origin}): import {name} gives Umbel in this process",
            CeleryWarning,
            stacklevel=3,
        )


def _really_installed(name: str) -> str | None:
    """Where a package of this name is that is none of ours; None where there is none."""
    spec = PathFinder.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return None if "__umbel_alias__" in Path(spec.origin).read_text(encoding="utf-8") else spec.origin
