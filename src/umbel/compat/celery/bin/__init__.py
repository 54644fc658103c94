"""The command line."""

from umbel.compat.lazily import lazily as _lazily

__getattr__ = _lazily(__name__, {})
