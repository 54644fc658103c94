"""The pool of gevent."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("TaskPool",)

__getattr__ = _lazily(__name__, {"TaskPool": "umbel.pools.green_pools:GeventPool"})
