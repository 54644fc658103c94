"""Attributes that are made once."""

from functools import cached_property

__all__ = ("cached_property",)
