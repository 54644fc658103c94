"""Waiting for results."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("AsyncBackendMixin", "BaseResultConsumer", "Drainer", "register_drainer")

__getattr__ = _lazily(__name__, {name: f"umbel.results.foreign:{name}" for name in __all__})
