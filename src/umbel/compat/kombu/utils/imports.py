"""Importing by name."""

from umbel.compat.helpers.imports import symbol_by_name

__all__ = ("symbol_by_name",)
