"""The worker."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("WorkController",)

__getattr__ = _lazily(__name__, {"WorkController": "celery.worker.worker:WorkController"})
