"""Waiting, in tests."""

from umbel.testing.manager import E_STILL_WAITING, Manager, ManagerMixin, Sentinel

__all__ = ("E_STILL_WAITING", "Manager", "ManagerMixin", "Sentinel")
