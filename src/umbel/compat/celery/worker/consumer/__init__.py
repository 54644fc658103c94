"""The part of a worker that takes messages."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Agent", "Connection", "Consumer", "Control", "Events", "Gossip", "Heart", "Mingle", "Tasks")

__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in __all__})
