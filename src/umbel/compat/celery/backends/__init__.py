"""Where results are kept; Umbel's backends have a contract of their own, ``umbel.results.base``."""

from umbel.compat.lazily import lazily as _lazily

__getattr__ = _lazily(__name__, {})
