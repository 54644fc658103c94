"""Loaders: where settings come from and which modules hold tasks."""

from __future__ import annotations

from typing import Any

from umbel.compat.helpers.imports import symbol_by_name
from umbel.compat.lazily import lazily as _lazily

__all__ = ("get_loader_cls",)

LOADER_ALIASES = {"app": "celery.loaders.app:AppLoader", "default": "celery.loaders.default:Loader"}


def get_loader_cls(loader: Any) -> Any:
    """The class of a loader."""
    return symbol_by_name(loader, LOADER_ALIASES)


__getattr__ = _lazily(__name__, {})
