"""Documenting tasks."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("TaskDirective", "TaskDocumenter", "setup")

__getattr__ = _lazily(__name__, {name: f"umbel.contrib.sphinx:{name}" for name in __all__})
