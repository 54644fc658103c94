"""The command ``multi``."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("MultiTool",)

__getattr__ = _lazily(__name__, {"MultiTool": "umbel.cli.multi:MultiTool", "multi": "umbel.cli.multi:multi"})
