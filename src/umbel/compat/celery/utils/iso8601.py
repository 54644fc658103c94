"""Instants as text."""

from umbel.core.times import parse_iso as parse_iso8601

__all__ = ("parse_iso8601",)
