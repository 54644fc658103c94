"""The pool of threads."""

from umbel.pools.threads import ThreadsPool as TaskPool

__all__ = ("TaskPool",)
