"""A debugger over the network."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace")

__getattr__ = _lazily(__name__, {name: f"umbel.contrib.rdb:{name}" for name in __all__})
