"""Growing and shrinking with the work."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Autoscaler", "WorkerComponent")

__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in __all__})
