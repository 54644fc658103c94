"""A result backend of Celery's that this version of Umbel does not have."""

from ._unserved import unserved as _unserved

__all__ = ("ElasticsearchBackend",)

__getattr__ = _unserved(__name__, "ElasticsearchBackend", "elasticsearch")
