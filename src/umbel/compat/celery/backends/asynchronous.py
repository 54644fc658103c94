"""Waiting for results. Umbel's own backends wake those who wait; one that was written for Celery is asked again."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("AsyncBackendMixin", "BaseResultConsumer", "Drainer", "register_drainer")


class AsyncBackendMixin:
    """Marks a backend that hears of results. Waiting is Umbel's affair: nothing of it is called here."""


__getattr__ = _lazily(
    __name__,
    {name: f"umbel.results.foreign:{name}" for name in ("BaseResultConsumer", "Drainer", "register_drainer")},
)
