"""The part of a worker that takes messages."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Consumer", "Evloop", "dump_body")

__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in __all__})

COLLECT_SOCKET_TIMEOUT = 5.0
