"""A step of the consumer's start."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Gossip",)

__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in __all__})
