"""Signals."""

from umbel.signals import Signal, logger

__all__ = ("Signal",)
