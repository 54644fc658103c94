"""The pool of one."""

from umbel.pools.solo import SoloPool as TaskPool

__all__ = ("TaskPool",)
