"""The pool of eventlet."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("TaskPool",)

__getattr__ = _lazily(__name__, {"TaskPool": "umbel.pools.green_pools:EventletPool"})
