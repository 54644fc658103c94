"""Printing events."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("Dumper", "evdump")

__getattr__ = _lazily(__name__, {name: f"umbel.events.dumper:{name}" for name in __all__})
