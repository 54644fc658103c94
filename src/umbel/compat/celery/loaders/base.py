"""The loader."""

from __future__ import annotations

from umbel.app.loading import Loader

__all__ = ("BaseLoader",)

unconfigured = object()
BaseLoader = Loader
