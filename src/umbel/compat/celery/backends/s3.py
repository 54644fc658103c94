"""A result backend of Celery's that this version of Umbel does not have."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("S3Backend",)

__getattr__ = _lazily(__name__, {"S3Backend": "umbel.results.s3:S3Backend"})
