"""Identifiers."""

from umbel.core.ids import new_id as uuid

__all__ = ("uuid",)
