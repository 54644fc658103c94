"""From a message to a job."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("default",)

__getattr__ = _lazily(__name__, {name: f"celery.worker.steps:{name}" for name in __all__})
