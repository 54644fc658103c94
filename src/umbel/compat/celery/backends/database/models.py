"""The tables of results."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Task", "TaskExtended", "TaskSet")

__getattr__ = _lazily(__name__, {name: f"umbel.results.tables:{name}" for name in __all__})
