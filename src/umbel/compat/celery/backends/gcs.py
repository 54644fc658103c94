"""A result backend of Celery's that this version of Umbel does not have."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("GCSBackend",)

__getattr__ = _lazily(__name__, {"GCSBackend": "umbel.results.gcs:GCSBackend"})
