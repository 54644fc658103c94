"""A result backend of Celery's that this version of Umbel does not have."""

from ._unserved import unserved as _unserved

__all__ = ("S3Backend",)

__getattr__ = _unserved(__name__, "S3Backend", "s3")
