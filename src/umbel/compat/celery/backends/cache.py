"""Results in memcached, or in memory."""

from __future__ import annotations

from umbel.compat.lazily import lazily as _lazily

__all__ = ("CacheBackend",)


class DummyClient:
    """Celery's stand-in for memcached; Umbel keeps such results in the process."""


__getattr__ = _lazily(__name__, {"CacheBackend": "umbel.results.cache:CacheResultBackend"})
