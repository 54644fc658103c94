"""Sessions with the database."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("SessionManager",)

__getattr__ = _lazily(__name__, {"SessionManager": "umbel.results.tables:SessionManager"})
