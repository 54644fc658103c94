"""Several workers as one."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Cluster", "Node")

__getattr__ = _lazily(__name__, {name: f"umbel.cli.multi:{name}" for name in __all__})
